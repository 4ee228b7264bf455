"""What is shipped in `deploy/`, loaded and run by the programs that it is for."""
