"""A role's secrets: its identity and its sealing keys, and what the commands call to make them."""
