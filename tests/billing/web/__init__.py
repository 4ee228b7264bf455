"""The console's pages, on a real server and real stores."""
