"""A role's secrets: its identity, its sealing keys, and the commands' way to make them."""
