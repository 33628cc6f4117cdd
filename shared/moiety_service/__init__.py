"""What every service runs in: settings, HTTP servers and clients, logs, the command. In shared/, only this does I/O."""
