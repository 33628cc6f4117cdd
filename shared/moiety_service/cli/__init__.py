"""The `moiety` command: what all its subcommands share, and those that every role needs."""
