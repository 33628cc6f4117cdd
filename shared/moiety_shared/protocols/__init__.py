"""The two-party protocols: one file each, with deal, prepare and evaluate next to each other. No I/O.

    deal(dealer, layer, ...)      what the dealer fixes                            (crypto provider)
    prepare(holder, layer, ...)   what a party computes before the input exists    (party, offline)
    evaluate(...)                 a generator: `opened = yield Opening(share)`      (party, online)

Notation, as in docs/protocol.md: [x]_p is party p's additive share mod 2^k, <b>_p its XOR share of a bit,
x^ = x + r a value opened under the one-time mask r. Party 0 is alice, party 1 is bob.
"""
