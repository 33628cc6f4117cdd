"""What protocols keep between runs has a bound in bytes, however many models a process serves."""

import gc
import sys
import weakref
from itertools import product

from moiety_shared.plan.lookups import Table
from moiety_shared.plan.pieces import Pieces
from moiety_shared.protocols import exp2, pieces, table, waves
from moiety_shared.ring import Ring

_LARGEST = 1 << 20


def looked_up(n: int) -> Table:
    """As large as the format allows: four functions of 2^10 values of 24 bits."""
    values = (n, *range(n + 1, n + 1023), n + (1 << 24) - 1)
    return Table(name="t", input="x", shape=(1,), shift=0, opened_bits=10, values=(values,) * 4)


def test_a_process_does_not_grow_with_the_tables_that_it_has_served() -> None:
    layer = looked_up(0)
    first = weakref.ref(table.rotated_bits(layer).base)
    assert table.rotated_bits(layer).base is first(), "it is kept for the next run"
    for n in range(1, 100):
        rotated = table.rotated_bits(looked_up(n))
        gc.collect(0)
        if first() is None:
            break
    assert first() is None, "all tables that were ever served are in memory"
    keys = 4 * sum(map(sys.getsizeof, (layer.values[0], *layer.values[0])))
    most = table.rotated_bits.cache_info().maxsize
    assert rotated.base.nbytes + keys <= _LARGEST and most is not None and most * _LARGEST <= 1 << 26


def test_nor_with_the_cosines_of_waves() -> None:
    ring = Ring(64)
    firsts = weakref.ref(waves.tables(5, 1, ring)[0]), weakref.ref(waves.cosines(5, 1))
    assert waves.tables(5, 1, ring)[0] is firsts[0](), "they are kept for the next run"
    for bits, fraction in product(range(6, 12), range(1, 25)):
        waves.tables(bits, fraction, ring)
    gc.collect(0)
    assert all(first() is None for first in firsts), "all tables that were ever served are in memory"
    for kept, largest in ((waves.tables, sum(t.nbytes for t in waves.tables(16, 24, ring))), (waves.cosines, 1 << 19)):
        most = kept.cache_info().maxsize
        assert largest <= _LARGEST and most is not None and most * _LARGEST <= 1 << 26


def test_nor_with_powers_of_two() -> None:
    kept = exp2._fine, exp2.table, exp2.heights
    firsts = weakref.ref(exp2.table(2, 5, 1, Ring(64))), weakref.ref(exp2.heights(2, 5, 10))
    assert exp2.heights(2, 5, 10) is firsts[1](), "they are kept for the next run"
    for bits, fraction in product(range(3, 8), range(10, 20)):
        exp2.table(bits, bits + 2, fraction, Ring(64))
        exp2.heights(bits, bits + 3, fraction)
    gc.collect(0)
    assert all(first() is None for first in firsts), "all tables that were ever served are in memory"
    powers = exp2._fine(14)
    largest = sys.getsizeof(powers) + sum(map(sys.getsizeof, powers))
    for one, size in zip(kept, (largest, 1 << 18, 1 << 19), strict=True):
        most = one.cache_info().maxsize
        assert size <= _LARGEST and most is not None and most * _LARGEST <= 1 << 26


def test_nor_with_the_coefficients_of_pieces() -> None:
    """As large as the format allows: 2^16 starts of cubics, and powers of 2^15 places."""
    layer = Pieces(
        name="f",
        input="x",
        shape=(1,),
        shift=0,
        opened_bits=16,
        word_bits=60,
        function="rsqrt",
        frac_bits=12,
        lowest=60_000,
        piece_bits=1,
        degree=3,
        value_bits=30,
        table_bits=16,
    )
    made = pieces.coefficients(layer).nbytes, pieces.powers(15, 16, 3, Ring(64)).nbytes
    for kept, largest in zip((pieces._coefficients, pieces.powers), made, strict=True):
        most = kept.cache_info().maxsize
        assert most is not None and most * largest <= 1 << 26
