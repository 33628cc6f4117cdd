"""The shell every service stands in: settings, HTTP servers and clients, logs, the command. Shared's only I/O."""
