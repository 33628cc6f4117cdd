"""The plain fixed-point evaluator against torch, on whole numbers."""

from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moiety_shared.plan.layers import Conv, Linear
from moiety_shared.plan.local import Combine, Concat, Local, Pad, Permute, Reshape, Slice, Sum, SumPool, Take, Upsample
from moiety_shared.plan.lookups import MaxPool, ReLU, TopK
from moiety_shared.protocols.product import times
from moiety_shared.ring import Array, Ring
from tests.protocols.running import Run, integers, plan_of

torch_examples = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def of_torch(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64))


def whole(x: torch.Tensor) -> Array:
    """torch's float64 result as the integers it must be."""
    assert bool((x == x.round()).all())
    return x.numpy().astype(np.int64)


sizes, sides = st.integers(1, 7), st.integers(1, 3)
functional = torch.nn.functional


@torch_examples
@given(st.data())
def test_local_layers_compute_what_torch_does(data: st.DataObject) -> None:
    draw = data.draw
    c, h, w = shape = draw(st.tuples(st.integers(1, 4), sizes, sizes))
    x = integers((2, *shape))
    t = of_torch(x)
    order = draw(st.permutations(range(3)))
    axis, factors = draw(st.integers(0, 2)), draw(st.tuples(sides, sides))
    start = draw(st.integers(0, shape[axis] - 1))
    stop, step = draw(st.integers(start + 1, shape[axis])), draw(sides)
    before, after = (draw(st.tuples(*[st.integers(0, 2)] * 3)) for _ in range(2))
    ends = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    axes = tuple(draw(st.lists(st.integers(0, 2), unique=True)))
    length = draw(st.integers(1, 9))
    picked, turned = (tuple(draw(st.integers(0, shape[axis] - 1)) for _ in range(length)) for _ in range(2))
    kernel = draw(st.tuples(st.integers(1, h), st.integers(1, w)))
    stride, padding = draw(st.tuples(sides, sides)), (draw(st.integers(0, kernel[0] // 2)), kernel[1] // 2)
    mean = functional.avg_pool2d(t, kernel, stride, padding) * (kernel[0] * kernel[1])
    index = [slice(None)] * (axis + 1) + [slice(start, stop, step)]
    given_shape: dict[str, Any] = {"name": "l", "input": "x", "shape": shape}
    cases: list[tuple[Local, torch.Tensor]] = [
        (Reshape(**given_shape, to=(h * w, c)), t.reshape(2, h * w, c)),
        (Permute(**given_shape, order=tuple(order)), t.permute(0, *(a + 1 for a in order))),
        (Slice(**given_shape, axis=axis, start=start, stop=stop, step=step), t[tuple(index)]),
        (Pad(**given_shape, before=before, after=after), functional.pad(t, ends)),
        (Upsample(**given_shape, factors=factors), functional.interpolate(t, scale_factor=[float(f) for f in factors])),
        (Take(**given_shape, axis=axis, places=(picked,)), t.index_select(axis + 1, torch.tensor(picked))),
        (
            Take(**given_shape, axis=axis, places=(picked, turned), factors=((2,) * len(picked), (-3,) * len(picked))),
            2 * t.index_select(axis + 1, torch.tensor(picked)) - 3 * t.index_select(axis + 1, torch.tensor(turned)),
        ),
        (Sum(**given_shape, axes=axes), t.sum(dim=[a + 1 for a in axes]) if axes else t),
        (SumPool(**given_shape, kernel=kernel, stride=stride, padding=padding), mean.round()),
    ]
    for layer, expected in cases:
        got = layer.apply(x)
        assert got.dtype == x.dtype and got.shape == (2, *layer.output_shape) and got.flags.c_contiguous
        assert np.array_equal(got, whole(expected).reshape(got.shape)), layer


@torch_examples
@given(st.data())
def test_concat_and_combine_compute_what_torch_does(data: st.DataObject) -> None:
    draw = data.draw
    shape, axis = draw(st.tuples(sizes, sizes, sizes)), draw(st.integers(0, 2))
    others = [(*shape[:axis], draw(sizes), *shape[axis + 1 :]) for _ in range(draw(st.integers(0, 2)))]
    thin = [tuple(draw(st.sampled_from([1, n])) for n in shape) for _ in range(draw(st.integers(0, 2)))]
    factors = tuple(draw(st.integers(-9, 9)) for _ in (shape, *thin))
    names = ("a", "b", "c")
    concat = Concat(name="l", inputs=names[: 1 + len(others)], shapes=(shape, *others), axis=axis)
    combine = Combine(name="l", inputs=names[: 1 + len(thin)], shapes=(shape, *thin), factors=factors)
    x = [integers((2, *s)) for s in concat.shapes]
    assert np.array_equal(concat.apply(*x), whole(torch.cat([of_torch(v) for v in x], axis + 1)))
    x = [integers((2, *s)) for s in combine.shapes]
    expected = torch.zeros(2, *shape, dtype=torch.float64)
    for factor, value in zip(factors, x, strict=True):
        expected = expected + factor * of_torch(value)
    got = combine.apply(*x)
    assert got.shape == (2, *combine.output_shape) and np.array_equal(got, whole(expected))


@torch_examples
@given(st.data(), st.sampled_from([np.int32, np.int64]))
def test_products_compute_what_torch_does(data: st.DataObject, dtype: Any) -> None:
    draw, ring = data.draw, Ring(np.dtype(dtype).itemsize * 8)
    lead = draw(st.lists(sizes, max_size=2))
    linear = Linear(name="l", input="x", shape=(*lead, draw(sizes)), out_features=draw(sizes))
    x, weight = integers((2, *linear.shape), dtype=dtype), integers(linear.weights()["weight"], dtype=dtype)
    expected = functional.linear(of_torch(x), of_torch(weight))
    assert np.array_equal(times(ring, linear, x, weight), whole(expected))
    groups, kernel, stride = draw(sides), draw(st.tuples(sides, sides)), draw(st.tuples(sides, sides))
    transposed, dilation = draw(st.booleans()), draw(st.tuples(sides, sides))
    padding = draw(st.tuples(*[st.integers(0, d * (k - 1)) for d, k in zip(dilation, kernel, strict=True)]))
    shape = (groups * draw(st.integers(1, 2)), draw(st.integers(7, 9)), draw(st.integers(7, 9)))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        options["output_padding"] = draw(st.tuples(*[st.integers(0, m) for m in most]))
    out = groups * draw(st.integers(1, 2))
    conv = Conv(name="l", input="x", shape=shape, out_channels=out, kernel=kernel, transposed=transposed, **options)
    x, weight = integers((2, *shape), dtype=dtype), integers(conv.weights()["weight"], dtype=dtype)
    convolution = functional.conv_transpose2d if transposed else functional.conv2d
    expected = convolution(of_torch(x), of_torch(weight), **options)
    got = times(ring, conv, x, weight)
    assert got.shape == (2, *conv.output_shape) and np.array_equal(got, whole(expected))


@given(
    stride=st.tuples(sides, sides), padding=st.integers(0, 1), transposed=st.booleans(), bits=st.sampled_from([8, 32])
)
@settings(deadline=None)
def test_a_number_for_each_channel_computes_what_torch_does(
    stride: tuple[int, int], padding: int, transposed: bool, bits: int
) -> None:
    """Whether the layer moves values or only multiplies them, which takes another way."""
    options: dict[str, Any] = {"stride": stride, "groups": 5, "padding": (0, 0) if transposed else (padding, 0)}
    conv = Conv(name="l", input="x", shape=(5, 3, 4), out_channels=5, kernel=(1, 1), transposed=transposed, **options)
    ring = Ring(bits)
    x, weight = ring.wrap(integers((2, 5, 3, 4))), ring.wrap(integers((5, 1, 1, 1)))
    convolution = functional.conv_transpose2d if transposed else functional.conv2d
    expected = ring.wrap(whole(convolution(of_torch(x), of_torch(weight), **options)))
    assert np.array_equal(times(ring, conv, x, weight), expected)


@torch_examples
@given(st.data())
def test_max_pool_computes_what_torch_does(data: st.DataObject) -> None:
    draw = data.draw
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)).filter(lambda k: k != (1, 1)))
    stride, dilation = (draw(st.tuples(sides, sides)) for _ in range(2))
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    shape = (draw(sides), least[0] + draw(st.integers(0, 5)), least[1] + draw(st.integers(0, 5)))
    if kernel[0] == 1:
        stride = (1, stride[1])  # see test_a_pool_of_one_row_that_strides
    x = integers((2, *shape))
    ceil = draw(st.booleans())
    expected = functional.max_pool2d(of_torch(x), kernel, stride, padding, dilation, ceil_mode=ceil)
    layer = MaxPool(
        name="m",
        input="input",
        shape=shape,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_size=tuple(expected.shape[2:]),  # type: ignore[arg-type]
        shift=0,
        opened_bits=16,
        range_bits=9,
    )
    end = ReLU(name="r", input="m", shape=layer.output_shape, hinges=(-200,), shift=0, opened_bits=16, range_bits=9)
    got = Run(plan_of(layer, end, shape=shape), {}).assert_bit_exact(x.reshape(2, -1))
    assert np.array_equal(got - 200, whole(expected))


@torch_examples
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=4), st.sampled_from([8, 9, 16, 32]))
def test_hinges_are_relus(hinges: list[int], q: int) -> None:
    layer = ReLU(name="r", input="input", shape=(9,), hinges=tuple(hinges), shift=0, opened_bits=q, range_bits=7)
    x = integers((3, 9), 7)
    got = Run(plan_of(layer, shape=(9,)), {}).assert_bit_exact(x)
    expected = sum(functional.relu(of_torch(x) - h) * (-1) ** i for i, h in enumerate(hinges))
    assert isinstance(expected, torch.Tensor) and np.array_equal(got, whole(expected))


@torch_examples
@given(st.integers(2, 12), st.integers(1, 14), st.sampled_from([2, 4, 8]))
def test_places_are_those_of_a_stable_sort(n: int, k: int, bits: int) -> None:
    layer = TopK(name="t", input="input", shape=(n,), k=k, shift=0, opened_bits=16, range_bits=9)
    x = integers((4, n), bits)
    got = Run(plan_of(layer, shape=(n,)), {}).assert_bit_exact(x)
    order = torch.from_numpy(x).sort(dim=1, descending=True, stable=True).indices
    expected = torch.zeros(4, n, dtype=torch.int64).scatter(1, order, torch.arange(1, n + 1).expand(4, n))
    assert np.array_equal(got, np.where(expected <= k, expected, 0))
