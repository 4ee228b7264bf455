"""The embedded servers, run for real: `holder` is the process that the tests kill, `support` starts and looks at it."""
