"""What roles send to one another or hand over as a file. Each message has one codec."""
