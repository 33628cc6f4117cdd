"""The sealed channel inside of TLS: in order, once, whole, and only between the two who said HELLO to each other."""

from collections.abc import Callable

import pytest

from moiety_shared.crypto import channel
from moiety_shared.crypto.channel import TAG_BYTES, Channel, derive
from moiety_shared.problems import Problem, ProblemType

SECRET = bytes(range(32))
SAID = (b"alice's hello", b"bob's hello")


def pair() -> tuple[Channel, Channel]:
    return Channel(SECRET, 0, *SAID), Channel(SECRET, 1, *SAID)


def refused(end: Channel, message: bytes) -> bool:
    """Whether it is, and nothing is sealed or opened at this end after."""
    with pytest.raises(Problem) as caught:
        end.open(message)
    for use in (lambda: end.open(message), lambda: end.seal(b"x")):
        with pytest.raises((Problem, ValueError)):
            use()
    return caught.value.kind is ProblemType.MALFORMED


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20])
def test_both_ways_whatever_the_size(size: int) -> None:
    alice, bob = pair()
    for _ in range(3):
        content = bytes(range(256)) * (size // 256) + bytes(size % 256)
        parts = (content[:5], memoryview(content)[5:])
        sealed = bytes(alice.seal(*parts))
        assert len(sealed) == size + TAG_BYTES and bob.open(sealed) == content
        assert alice.open(bytes(bob.seal(*parts))) == content


@pytest.mark.parametrize("size", [40, 1 << 17], ids=["small", "large"])
def test_nothing_of_a_message_is_readable_and_none_looks_like_another(size: int) -> None:
    alice, bob = pair()
    content = bytes(size)
    sent = [bytes(end.seal(content)) for end in (alice, bob) for _ in range(20)]
    assert len({message[at : at + 16] for message in sent for at in range(0, size, 16)}) == 40 * -(-size // 16)


@pytest.mark.parametrize(
    "happens",
    [
        lambda first, second: (first[:-1],),
        lambda first, second: (first + b"\0",),
        lambda first, second: (b"",),
        lambda first, second: (second,),
        lambda first, second: (first, first),
    ],
    ids=["cut", "longer", "empty", "the second first", "repeated"],
)
def test_what_is_not_the_next_message_ends_the_channel(happens: Callable[[bytes, bytes], tuple[bytes, ...]]) -> None:
    alice, bob = pair()
    first, second = bytes(alice.seal(b"one")), bytes(alice.seal(b"two"))
    *right, wrong = happens(first, second)
    for message in right:
        bob.open(message)
    assert refused(bob, wrong)


def test_every_bit_counts() -> None:
    sealed = bytes(pair()[0].seal(b"content"))
    for at in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        assert refused(pair()[1], bytes(changed))


def test_an_end_does_not_hear_itself() -> None:
    alice, _ = pair()
    assert refused(alice, bytes(alice.seal(b"x")))


@pytest.mark.parametrize(
    "other",
    [
        (bytes(32), *SAID),
        (SECRET, b"alice's hallo", SAID[1]),
        (SECRET, SAID[0], b""),
        (SECRET, *reversed(SAID)),
        (SECRET, SAID[0] + SAID[1], b""),
        (SECRET, SAID[0] + SAID[1]),
    ],
    ids=["secret", "alice's", "bob's", "order", "cut elsewhere", "joined"],
)
def test_who_heard_something_else_opens_nothing(other: tuple[bytes, ...]) -> None:
    secret, *said = other
    assert refused(Channel(secret, 1, *said), bytes(pair()[0].seal(b"x")))


def test_keys_are_replaced_and_the_old_ones_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_KEY_MESSAGES", 4)
    alice, bob = pair()
    keys = set()
    for number in range(10):
        content = number.to_bytes(2, "big") * (1 << 16 if number == 7 else 1)
        assert bob.open(bytes(alice.seal(content))) == content
        keys.add(bytes(alice._out._key))
    assert len(keys) == 3 and bytes(alice._out._key) == bytes(bob._in._key)


def test_keys_are_wiped_at_the_end() -> None:
    alice, _ = pair()
    held = [way._key for way in (alice._in, alice._out)]
    assert all(map(any, held))
    alice.close()
    assert not any(map(any, held))
    assert refused(alice, b"anything")


def test_keys_of_different_uses_differ() -> None:
    made = [
        derive(SECRET, *use)
        for use in (("lane", b"ab", b"c"), ("lane", b"a", b"bc"), ("bundle", b"ab", b"c"), ("lane", b"abc"), ("lane",))
    ]
    assert len({*made, derive(bytes(32), "lane")}) == 6
