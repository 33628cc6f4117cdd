"""Whole plans, bit for bit, against the plain fixed-point evaluator that is given the same dithers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety_server import network, samples
from moiety_server.compile import encode_rows
from moiety_shared import reference
from moiety_shared.plan import Input, Linear, Output, Plan, ReLU, Truncate
from moiety_shared.prg import Stream, new_seed
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import Kind, Opening, lockstep, wire_bytes
from moiety_shared.ring import Array


class Run:
    """A dealer and two parties in one process, over real streams."""

    def __init__(self, plan: Plan, weights: dict[str, Array]) -> None:
        self.plan, self.weights, self.ring = plan, weights, graph.ring_of(plan)
        uploads = [Stream(new_seed(), "upload") for _ in range(2)]
        masks = [graph.weight_masks(plan, upload) for upload in uploads]
        self.masks = {name: self.ring.wrap(mask + masks[1][name]) for name, mask in masks[0].items()}
        one = {name: self.random(w.shape) for name, w in weights.items()}
        other = {name: w - one[name] for name, w in weights.items()}
        sessions = [graph.mask_model(plan, p, s, masks[p]) for p, s in enumerate((one, other))]
        self.models = lockstep(self.ring, *sessions)  # type: ignore[arg-type]
        self.opened: list[tuple[Opening, Array]] = []

    def random(self, shape: tuple[int, ...]) -> Array:
        return Stream(new_seed()).words("random", shape, self.ring.dtype)

    def outputs(self, x: Array) -> Array:
        rows, plan = len(x), self.plan
        seeds = [new_seed() for _ in range(3)]
        dealt = graph.deal(plan, rows, self.masks, *(Stream(seed) for seed in seeds))
        raw = bytearray(b"".join(array.tobytes() for _, array in dealt))
        assert len(raw) == plan.cost(rows).offline_bytes
        corrections = [{}, graph.read_bundle(plan, rows, raw)]
        x0 = self.random(x.shape)
        sessions = []
        for p, share in enumerate((x0, x - x0)):
            model = self.models[p]
            prepared = graph.prepare(plan, p, rows, Stream(seeds[p]), corrections[p], model)  # type: ignore[arg-type]
            sessions.append(graph.evaluate(plan, p, share, prepared, model))  # type: ignore[arg-type]
        self.opened.clear()
        out = lockstep(self.ring, *sessions, lambda o, v: self.opened.append((o, v)))
        return self.ring.wrap(out[0] + out[1])

    def dithers(self) -> dict[str, Array]:
        """The public dithers of the last run: the ring openings, in the order of the layers."""
        ring_openings = iter([value for opening, value in self.opened if opening.kind is Kind.RING])
        layers = {}
        for layer in self.plan.layers:
            value = next(ring_openings)
            if isinstance(layer, ReLU | Truncate):
                layers[layer.name] = reference.dither_of(value, layer.frac_bits)
        return layers


def assert_bit_exact(run: Run, x: Array) -> None:
    got = run.outputs(x)
    dithers = run.dithers()
    assert np.array_equal(got, reference.run(run.plan, x, run.weights, lambda name, _: dithers[name]))
    cost = run.plan.cost(len(x))
    assert sum(wire_bytes(opening) for opening, _ in run.opened) == cost.online_bytes
    assert len(run.opened) == cost.rounds


@st.composite
def chains(draw: st.DrawFn) -> tuple[Plan, dict[str, Array], Array]:
    """Random chains of linear layers with ReLU or truncation between, with values that fit."""
    bits = draw(st.sampled_from([32, 64]))
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    rows = draw(st.integers(1, 5))
    rng = Stream(draw(st.binary(min_size=32, max_size=32)))
    layers: list[Linear | ReLU | Truncate] = []
    weights: dict[str, Array] = {}
    wire = "input"
    for i, (a, b) in enumerate(pairwise(sizes)):
        bias = draw(st.booleans())
        layers.append(Linear(name=f"l{i}", input=wire, in_features=a, out_features=b, weight_frac_bits=4, bias=bias))
        wire = f"l{i}"
        for name, shape in layers[-1].weights().items():
            weights[f"l{i}.{name}"] = rng.words(f"{name}{i}", shape, np.int32).astype(f"<i{bits // 8}") >> 26
        if i + 2 < len(sizes):
            f = draw(st.integers(0, 6))
            if draw(st.booleans()):
                m = draw(st.integers(3, 5))
                top = draw(st.integers(max(18, f + 1), min(30, f + 4 * m)) if f + 4 * m >= 18 else st.just(f + 4 * m))
                if top < 18:
                    m, top = 5, 20
                layers.append(ReLU(name=f"r{i}", input=wire, size=b, frac_bits=f, range_bits=top, digit_bits=m))
            else:
                layers.append(Truncate(name=f"r{i}", input=wire, size=b, frac_bits=f))
            wire = f"r{i}"
    plan = Plan(
        ring_bits=bits,
        input=Input(shape=(sizes[0],), frac_bits=4, low=-8, high=8),
        layers=tuple(layers),
        output=Output(wire=wire, shape=(sizes[-1],), frac_bits=8),
    )
    x = rng.words("x", (rows, sizes[0]), np.int32).astype(f"<i{bits // 8}") >> 28
    return plan, weights, x


@settings(max_examples=60, deadline=None)
@given(chains())
def test_random_chains_are_bit_exact(case: tuple[Plan, dict[str, Array], Array]) -> None:
    plan, weights, x = case
    assert_bit_exact(Run(plan, weights), x)


@pytest.mark.parametrize("rows", [1, 7, 128])
def test_the_mnist_network_is_bit_exact(rows: int) -> None:
    compiled = samples.compile_mnist()
    pixels, _ = samples.images()
    run = Run(compiled.plan, dict(compiled.weights))
    assert_bit_exact(run, encode_rows(compiled.plan, network.normalise(pixels[:rows])))


def test_a_wrong_dither_is_noticed() -> None:
    compiled = samples.compile_mnist()
    pixels, _ = samples.images()
    run = Run(compiled.plan, dict(compiled.weights))
    x = encode_rows(compiled.plan, network.normalise(pixels[:8]))
    got = run.outputs(x)
    dithers = run.dithers()
    assert not np.array_equal(got, reference.run(run.plan, x, run.weights, lambda name, _: dithers[name] + 1024))


def test_rows_of_a_bundle_are_independent_of_how_they_are_drawn() -> None:
    """Cut and stacked rows compute the same: rows 5..8 as one run, or as part of a larger one."""
    compiled = samples.compile_mnist()
    plan, rows = compiled.plan, 16
    run = Run(plan, dict(compiled.weights))
    seeds = [new_seed() for _ in range(3)]
    raw = bytearray(b"".join(a.tobytes() for _, a in graph.deal(plan, rows, run.masks, *(Stream(s) for s in seeds))))
    corrections = [{}, graph.read_bundle(plan, rows, raw)]
    pixels, _ = samples.images()
    x = encode_rows(plan, network.normalise(pixels[:rows]))
    x0 = run.random(x.shape)
    outs = []
    for first, end in ((0, rows), (5, 9)):
        sessions = []
        for p, share in enumerate((x0, x - x0)):
            whole = graph.prepare(plan, p, rows, Stream(seeds[p]), corrections[p], run.models[p])  # type: ignore[arg-type]
            parts = [graph.cut(whole, at, min(at + 3, end)) for at in range(first, end, 3)]
            sessions.append(
                graph.evaluate(plan, p, share[first:end], graph.stack(parts), run.models[p])  # type: ignore[arg-type]
            )
        out = lockstep(run.ring, *sessions)
        outs.append(out[0] + out[1])
    assert np.array_equal(outs[0][5:9], outs[1])
