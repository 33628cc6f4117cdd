"""The two-party protocols. Each file holds one protocol's deal, prepare and evaluate next to each other. No I/O.

    deal(dealer, layer, ...)      what the dealer fixes                            (crypto provider)
    prepare(holder, layer, ...)   what a party computes before the input exists    (party, offline)
    evaluate(...)                 a generator: `opened = yield Opening(share)`      (party, online)

Notation, as in docs/how-it-works.md: [x]_p is party p's additive share mod 2^k, and <b>_p is its XOR share of a bit.
The one-time mask r turns x into x^ = x + r. Party 0 is alice, party 1 is bob.

To open a value means that the parties reveal x^ to each other. No secret is opened without a mask: r is uniform, and
neither party knows it, so x^ says nothing about x to either of them.
"""
