"""What all roles agree on: numbers, protocols, plans, envelopes, messages and problems.

Nothing here does any I/O: no sockets, no files, no clock, no global state. `fixed_point`, `prg`, `plan`, `sealing`,
`wire` and `catalogue` need numpy only, so a client installs without torch. `ring` and `protocols` use torch.
"""
