"""alice: faces the clients and leads every run."""
