"""What a cheating party sees, and whether the other aborts, has one histogram for all secrets: exhaustively."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.verified.dealing import AuthenticDealer
from moiety_shared.protocols.verified.layer import LayerDealer
from moiety_shared.protocols.verified.wires import DealtWire
from moiety_shared.ring import Array
from tests.protocols.enumeration import Leak
from tests.protocols.verified.tiny import PRODUCT_VIEWS, RELU_VIEWS, assert_one_histogram, product_views, relu_views
from tests.protocols.verified.tiny_counts import Secret, count_views, views
from tests.protocols.verified.tiny_layers import CONV_VIEWS, POOL_VIEWS, conv_views, pool_views
from tests.protocols.verified.tiny_smooth import NORMAL_VIEWS, SMOOTH, SMOOTH_VIEWS, normal_views, smooth_views

Patch = pytest.MonkeyPatch
PARTIES = pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])


@PARTIES
def test_a_product_shows_a_liar_nothing(liar: int) -> None:
    assert_one_histogram(product_views(liar), PRODUCT_VIEWS)


@PARTIES
def test_a_relu_shows_a_liar_nothing(liar: int) -> None:
    assert_one_histogram(relu_views(liar), RELU_VIEWS)


@pytest.mark.parametrize("liar", [pytest.param(0, id="alice", marks=pytest.mark.long), pytest.param(1, id="bob")])
def test_a_convolution_shows_a_liar_nothing(liar: int) -> None:
    assert_one_histogram(conv_views(liar), CONV_VIEWS)


@PARTIES
def test_a_max_pool_shows_a_liar_nothing(liar: int) -> None:
    assert_one_histogram(pool_views(liar), POOL_VIEWS)


@pytest.mark.parametrize("kind", SMOOTH)
@PARTIES
def test_a_smooth_function_shows_a_liar_nothing(kind: str, liar: int) -> None:
    assert_one_histogram(smooth_views(liar, SMOOTH[kind]), SMOOTH_VIEWS)


@PARTIES
def test_a_normal_form_shows_a_liar_nothing(liar: int) -> None:
    assert_one_histogram(normal_views(liar, [7]), NORMAL_VIEWS)


PAIRS = [(one, other) for one in range(4) for other in range(4)]
OF_ONE_SUM = [[pair for pair in PAIRS if sum(pair) % 4 == of] for of in range(4)]


@PARTIES
def test_a_count_shows_a_liar_nothing(liar: int) -> None:
    assert_one_histogram(count_views(liar, PAIRS, [7], ""), views(""))


@pytest.mark.parametrize("pairs", OF_ONE_SUM)
@PARTIES
def test_a_count_shows_whoever_may_read_it_the_sum_alone(liar: int, pairs: list[Secret]) -> None:
    """A party and the model's owner together, who has the key of the count, and none of an input."""
    assert_one_histogram(count_views(liar, pairs, [0, 7, 12], "c"), views("c"), every_view=False)


def even(patch: Patch) -> None:
    """z has a lowest bit of 0."""
    original = AuthenticDealer.free

    def free(self: AuthenticDealer, name: str, shape: tuple[int, ...]) -> Array:
        words = original(self, name, shape) & ~1
        self.authenticate(name, words)
        return words

    patch.setattr(AuthenticDealer, "free", free)


def bare(patch: Patch) -> None:
    """Fixed words have upper bits of 0: the sum's carries show in h^."""

    def fix(self: AuthenticDealer, name: str, low: Array) -> Array:
        words = self.word.of(low)
        self.authenticate(name, words)
        return words

    patch.setattr(AuthenticDealer, "fix", fix)


def unmasked(patch: Patch) -> None:
    """h^ is open without a mask."""

    def mask(self: AuthenticDealer, name: str, shape: tuple[int, ...]) -> Array:
        words = self.word.of(np.ones(shape, np.int64))  # the liar's half
        self.authenticate(name, words)
        return words

    patch.setattr(AuthenticDealer, "mask", mask)


def bare_sign(patch: Patch) -> None:
    """The sign has no mask of its own."""
    for holder in (Dealer, Holder):
        original: Any = holder.mask_words
        patch.setattr(holder, "mask_words", lambda self, name, shape, of=original: of(self, name, shape) & 1)


@pytest.mark.parametrize("plant", [even], ids=["even"])
def test_a_leak_of_a_product_is_noticed(monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(product_views(0, [7]), PRODUCT_VIEWS)


@pytest.mark.parametrize("plant", [bare, unmasked, bare_sign], ids=["bare", "unmasked", "bare sign"])
def test_a_leak_of_a_relu_is_noticed(monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(relu_views(0, [7]), RELU_VIEWS)


def shared(patch: Patch) -> None:
    """Both places of a convolution have one z."""
    original = AuthenticDealer.free

    def free(self: AuthenticDealer, name: str, shape: tuple[int, ...]) -> Array:
        words = original(self, name, shape)
        words[..., 1] = words[..., 0]
        self.authenticate(name, words)
        return words

    patch.setattr(AuthenticDealer, "free", free)


@pytest.mark.parametrize("plant", [even, shared], ids=["even", "shared"])
def test_a_leak_of_a_convolution_is_noticed(monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(conv_views(0, [7]), CONV_VIEWS)


@pytest.mark.parametrize("plant", [bare, unmasked, bare_sign], ids=["bare", "unmasked", "bare sign"])
def test_a_leak_of_a_max_pool_is_noticed(monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(pool_views(0, [7]), POOL_VIEWS)


def thin(patch: Patch) -> None:
    """What is opened is under a mask, and no word: the public factors are even, so the sum's carries show above it."""

    def covered(self: LayerDealer, shape: tuple[int, ...]) -> DealtWire:
        return DealtWire(self.mask("result", shape))

    patch.setattr(LayerDealer, "covered", covered)


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_leak_of_a_smooth_function_is_noticed(monkeypatch: Patch, kind: str) -> None:
    thin(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(smooth_views(0, SMOOTH[kind], [7]), SMOOTH_VIEWS)


@pytest.mark.parametrize("plant", [thin, bare_sign], ids=["thin", "bare sign"])
def test_a_leak_of_a_normal_form_is_noticed(monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(normal_views(0, [7]), NORMAL_VIEWS)


@pytest.mark.parametrize("known", ["xx", "cxx"])
def test_a_key_that_yields_masks_of_inputs_too_is_noticed(known: str) -> None:
    with pytest.raises(Leak):
        assert_one_histogram(count_views(0, OF_ONE_SUM[0], [7], known), views(known))


def test_that_a_reader_reads_the_sum_is_noticed() -> None:
    with pytest.raises(Leak):
        assert_one_histogram(count_views(0, PAIRS, [7], "c"), views("c"))


@pytest.mark.parametrize("plant", [bare, unmasked], ids=["bare", "unmasked"])
def test_a_leak_of_a_count_is_noticed(monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        assert_one_histogram(count_views(0, PAIRS, [7], ""), views(""))
