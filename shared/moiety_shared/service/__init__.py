"""The shell that every service stands in: settings, HTTP servers and clients, logs, the command. The only I/O in shared."""
