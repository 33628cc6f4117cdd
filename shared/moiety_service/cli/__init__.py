"""The `moiety` command: what it has in common, and the commands that every role needs."""
