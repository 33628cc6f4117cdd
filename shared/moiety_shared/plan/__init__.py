"""The plan: the public graph of layers that alice, bob and the crypto provider agree on."""
