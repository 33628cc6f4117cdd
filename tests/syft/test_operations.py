"""Every operation on secrets against the same one on plain tensors, through the five processes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import moiety_syft as sy
from tests.syft.conftest import Share

A = torch.tensor([[0.5, -1.25, 3.0, 0.0], [2.125, 0.25, -0.5, -3.5], [1.0, 1.5, -2.0, 0.75]])
B = torch.tensor([[0.5, 1.0, -3.0, 0.001], [2.0, -0.25, -0.5, 3.5], [-1.0, 1.5, 2.0, 0.7]])
ROW = torch.tensor([1.5, -2.0, 0.25, 1.0])
SQUARE = torch.tensor([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0], [2.0, 0.0, -0.75]])
WHOLE = torch.tensor([[3, -7, 120, 0], [5, 5, -1, 9], [1, 2, 3, 4]])
OTHER = torch.tensor([[3, 7, -2, 1], [6, 5, -1, 0], [0, 2, 4, 4]])
PLANES = torch.arange(2 * 2 * 6 * 6).reshape(2, 2, 6, 6) % 13 / 4 - 1.5

torch.manual_seed(3)
KERNEL = torch.randn(3, 2, 3, 3)

Function = Callable[..., Tensor]

ONE: dict[str, Function] = {
    "plus a number": lambda x: x + 1.5,
    "a number minus": lambda x: 2 - x,
    "minus a number": lambda x: x - 0.25,
    "times a number": lambda x: x * -3,
    "divided": lambda x: x / 4,
    "divided by thirds": lambda x: x / 3,
    "negated": lambda x: -x,
    "plus a plain tensor": lambda x: x + ROW,
    "times a plain tensor": lambda x: x * ROW,
    "a plain tensor times": lambda x: ROW * x,
    "squared": lambda x: x**2,
    "cubed": lambda x: x.pow(3),
    "absolute": lambda x: x.abs(),
    "relu": lambda x: F.relu(x),
    "relu method": lambda x: (x - 0.5).relu(),
    "relu6": lambda x: F.relu6(x * 4),
    "clamped": lambda x: x.clamp(-1, 2),
    "leaky": lambda x: F.leaky_relu(x + 0.5, 0.1),
    "greater": lambda x: x > 0,
    "not less": lambda x: x >= 0,
    "less": lambda x: x < 0.5,
    "not greater": lambda x: x <= 0.5,
    "equal": lambda x: x == 0,
    "unequal": lambda x: x != 0.25,
    "between": lambda x: (x > -1) & (x < 1),
    "outside": lambda x: (x < -1) | (x > 1),
    "not": lambda x: ~(x > 0),
    "chosen": lambda x: torch.where(x > 0, x, x * 0.5),
    "max": lambda x: x.max(),
    "max of rows": lambda x: x.max(dim=1)[0],
    "place of the max": lambda x: x.max(dim=1)[1],
    "max of columns": lambda x: x.max(0)[0],
    "min": lambda x: x.min(),
    "min of rows": lambda x: (x * 2).min(dim=1)[0],
    "argmax": lambda x: x.argmax(),
    "argmax of rows": lambda x: x.argmax(dim=1),
    "argmax kept": lambda x: (x + 1).argmax(1, keepdim=True),
    "argmax of columns": lambda x: (x + 1).argmax(0),
    "argmin": lambda x: x.argmin(dim=1),
    "sum": lambda x: x.sum(),
    "sum of rows": lambda x: x.sum(dim=1),
    "sum of columns": lambda x: x.sum(0),
    "sum kept": lambda x: x.sum(dim=1, keepdim=True),
    "sum of results": lambda x: (x > 0).sum(),
    "sum of products": lambda x: (x * x).sum(dim=0),
    "mean": lambda x: x.mean(),
    "mean of rows": lambda x: x.mean(dim=1),
    "mean of columns": lambda x: (x * x).mean(dim=0),
    "mean of squares": lambda x: (x * x).mean(),
    "view": lambda x: (x + 1).view(2, 6),
    "view to the end": lambda x: (x + 1).view(-1),
    "reshape": lambda x: (x + 1).reshape(4, 3),
    "turned": lambda x: (x + 1).t(),
    "turned and reshaped": lambda x: (x + 1).t().reshape(2, 6),
    "T": lambda x: (x + 1).T,
    "transposed": lambda x: (x + 1).transpose(0, 1),
    "permuted": lambda x: (x + 1).reshape(3, 2, 2).permute(2, 0, 1),
    "row": lambda x: (x + 1)[1],
    "last column": lambda x: (x + 1)[:, -1],
    "corner": lambda x: (x + 1)[1:, ::2],
    "element": lambda x: (x + 1)[2, 3],
    "new axis": lambda x: (x + 1)[:, None],
    "unsqueezed": lambda x: (x + 1).unsqueeze(0).squeeze(),
    "flattened": lambda x: (x + 1).flatten(),
    "split": lambda x: (x + 1).split(2, dim=1)[1],
    "chunks": lambda x: (x + 1).chunk(3)[2],
    "ones like it": lambda x: (x + 1) * torch.ones_like(x) + torch.full_like(x + 1, 0.5),
    "expanded": lambda x: (x[:1] + 1).expand(3, 4),
    "times a matrix": lambda x: x @ SQUARE.new_tensor([[1.0, 2], [0.5, -1], [0, 3], [-1, 0]]),
    "a matrix times": lambda x: SQUARE @ x,
    "sigmoid": lambda x: torch.sigmoid(x),
    "tanh": lambda x: x.tanh(),
    "linear layer": lambda x: F.linear(x, ROW.repeat(2, 1), torch.tensor([0.5, -1.0])),
    "rows that were picked": lambda x: x[torch.tensor([2, 0])] * 2,
}

TWO: dict[str, Function] = {
    "plus": lambda x, y: x + y,
    "minus": lambda x, y: x - y,
    "times": lambda x, y: x * y,
    "twice plus": lambda x, y: torch.add(x, y, alpha=2),
    "greater": lambda x, y: x > y,
    "not less": lambda x, y: x >= y,
    "less": lambda x, y: x < y,
    "not greater": lambda x, y: x <= y,
    "equal": lambda x, y: x == y,
    "eq": lambda x, y: x.eq(y),
    "unequal": lambda x, y: x != y,
    "larger": lambda x, y: torch.maximum(x, y),
    "smaller": lambda x, y: torch.minimum(x, y),
    "matmul": lambda x, y: x.matmul(y.t()),
    "mm": lambda x, y: torch.mm(x.t(), y),
    "at": lambda x, y: x @ y.T,
    "dot": lambda x, y: x[0].dot(y[1]),
    "matrix and vector": lambda x, y: x @ y[0],
    "vector and matrix": lambda x, y: x[0] @ y.t(),
    "batches of matrices": lambda x, y: x.reshape(3, 2, 2) @ y.reshape(3, 2, 2),
    "outer": lambda x, y: x[:, 1:2] * y[1:2],
    "cat": lambda x, y: torch.cat([x, y + 1], dim=1),
    "cat of rows": lambda x, y: torch.cat([x * 2, y]),
    "stack": lambda x, y: torch.stack([x, y * y]),
    "sum of both": lambda x, y: x.sum() + (y * y).sum(),
    "hits": lambda x, y: x.argmax(dim=1).eq(y.argmax(dim=1)).sum(),
    "column times row": lambda x, y: x * y[0],
    "mean square of the difference": lambda x, y: ((x - y) ** 2).mean(),
}

PICTURES: dict[str, Function] = {
    "convolution": lambda x: F.conv2d(x, KERNEL, torch.tensor([0.5, 0.0, -1.0]), padding=1),
    "strided": lambda x: F.conv2d(x, KERNEL, stride=2),
    "max pool": lambda x: F.max_pool2d(x, 2),
    "mean pool": lambda x: F.avg_pool2d(x, 3),
    "global mean": lambda x: F.adaptive_avg_pool2d(x, 1),
    "along the length": lambda x: F.conv1d(x.flatten(2), KERNEL[..., 0]),
    "flattened": lambda x: torch.flatten(F.relu(x), 1).sum(1),
}


def matches(found: Tensor, expected: Tensor, tolerance: float = 4e-3) -> None:
    assert isinstance(found, sy.FixedPrecisionTensor)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    error = (found.float_precision() - expected.float()).abs().max()
    assert error <= (tolerance if expected.dtype.is_floating_point else 0), float(error)


@pytest.mark.parametrize("name", ONE)
def test_of_one(share: Share, name: str) -> None:
    matches(ONE[name](share(A)).get(), ONE[name](A))


@pytest.mark.parametrize("name", TWO)
def test_of_two(share: Share, name: str) -> None:
    matches(TWO[name](share(A), share(B)).get(), TWO[name](A, B))


@pytest.mark.parametrize(
    "name", [n for n in TWO if not n.startswith("mean")] + ["plus a number", "times a number", "negated"]
)
def test_whole_numbers_come_out_exactly(workers: list[sy.VirtualWorker], name: str) -> None:
    *two, dealer = workers
    x, y = (t.share(*two, crypto_provider=dealer) for t in (WHOLE, OTHER))
    found, expected = (TWO[name](x, y), TWO[name](WHOLE, OTHER)) if name in TWO else (ONE[name](x), ONE[name](WHOLE))
    assert torch.equal(found.get().float(), expected.float())


@pytest.mark.parametrize("name", PICTURES)
def test_of_pictures(share: Share, name: str) -> None:
    matches(PICTURES[name](share(PLANES)).get(), PICTURES[name](PLANES), 2e-2)


def test_rows_do_not_meet_where_sizes_only_happen_to_be_equal(share: Share) -> None:
    """Square tensors: an axis of as many places as there are rows is still not the rows'."""
    x, y, column = share(SQUARE), share(SQUARE.t() * 2), share(SQUARE[:, 0].clone())
    for f in (
        lambda x, y, c: x + c,
        lambda x, y, c: c * y,
        lambda x, y, c: x @ y,
        lambda x, y, c: x.t() + y,
        lambda x, y, c: x @ c,
        lambda x, y, c: (x > c).sum(0),
    ):
        matches(f(x, y, column).get(), f(SQUARE, SQUARE.t() * 2, SQUARE[:, 0]))


def test_values_of_one_decimal_grid_are_told_apart_and_equals_are_equal(share: Share) -> None:
    x, y = torch.tensor([0.1, 0.2, 0.3, 1.999]), torch.tensor([0.1, 0.201, 0.299, 2.0])
    assert (share(x) == share(y)).get().tolist() == [True, False, False, False]
    assert (share(x) > share(y)).get().tolist() == [False, False, True, False]
    assert (share(x) * share(x) == share(x**2)).get().tolist() == [True] * 4, "within half of the last decimal"


def test_results_are_known_once_and_used_on(share: Share) -> None:
    x = share(A)
    doubled = x * 2
    first = doubled.get()
    assert torch.equal(doubled.copy().get(), first), "no second run with other rounding"
    matches((doubled + x).get(), A * 3)


def test_assignments_in_place(share: Share) -> None:
    x = share(A)
    before = x + 0
    x += share(B)
    x *= 2
    matches(x.get(), (A + B) * 2)
    matches(before.get(), A)
    torch.nn.ReLU(inplace=True)(x)
    assert float(x.get().float_precision().min()) >= 0


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.head(self.drop(x.flatten(1)))


def test_a_network_is_shared_run_and_taken_back(share: Share, workers: list[sy.VirtualWorker]) -> None:
    torch.manual_seed(0)
    model, x = Small(), torch.rand(5, 2, 6, 6)
    model(x * 3)  # running statistics that are not 0 and 1
    model.train(False)
    expected = model(x).detach()
    *two, dealer = workers
    model.fix_precision().share(*two, crypto_provider=dealer)
    assert isinstance(model.head.weight, sy.SharedTensor)
    matches(model(share(x)).get(), expected, 2e-2)
    matches(model(share(x[:2])).argmax(dim=1).get(), expected[:2].argmax(dim=1))
    model.get().float_precision()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("attempt", "hint"),
    [
        (lambda x: x.item(), "get"),
        (lambda x: bool(x[0, 0] > 0), "get"),
        (lambda x: x.numpy(), "get"),
        (lambda x: x.send("bob"), "do not send it"),
        (lambda x: x.float_precision(), "get"),
        (lambda x: F.dropout(x, 0.5), "random"),
        (lambda x: x.sort(), "argmax"),
        (lambda x: x.sqrt().get(), "NaN"),
        (lambda x: (1 / x).get(), "too near"),
        (lambda x: (x / x).get(), "too near"),
        (lambda x: x.long(), "rounded"),
        (lambda x: (x[0].fill_(0), x.get()), "written to"),
        (lambda x: (x[:, :2].add_(1), x + 1), "written to"),
        (lambda x: (x.__setitem__((slice(None), 0), 0), x.get()), "written to"),
        (lambda x: (v := x.view(-1), x.add_(1), v.get()), "written to"),
        (lambda x: (x + 1)[torch.tensor([0])].get(), "batch"),
        (lambda x: x @ torch.ones(3, 3), ""),
        (lambda x: x & 1, ""),
        (lambda x: torch.add(x, 1, out=torch.empty(3, 4)), ""),
    ],
)
def test_what_is_not_served_says_what_is(share: Share, attempt: Function, hint: str) -> None:
    with pytest.raises(sy.Unsupported, match=f"(?i){hint}"):
        attempt(share(A))


def test_what_cannot_be_shared_says_what_can(share: Share, workers: list[sy.VirtualWorker]) -> None:
    bob, alice, dealer = workers
    with pytest.raises(sy.Unsupported, match="fix_precision"):
        A.share(bob, alice, crypto_provider=dealer)
    with pytest.raises(sy.Unsupported, match="two different"):
        A.fix_precision().share(bob, bob, crypto_provider=dealer)
    with pytest.raises(sy.Unsupported, match="dealer"):
        A.fix_precision().share(bob, alice)
    with pytest.raises(sy.Unsupported, match="fix_precision"):
        nn.Linear(2, 2).share(bob, alice, crypto_provider=dealer)
    with pytest.raises(sy.Unsupported, match="share"):
        A.send(bob)
    with pytest.raises(sy.Unsupported, match="NaN"):
        (share(torch.tensor([float("nan"), 1.0])) * 2).get()
    with pytest.raises(sy.Unsupported, match="exact"):
        large = torch.tensor([1 << 40]).share(bob, alice, crypto_provider=dealer)
        (large * large).get()


def test_secrets_are_not_shown(share: Share) -> None:
    secret = share(torch.tensor([1.2345, 6.789]))
    for text in (repr(secret), str(secret), f"{secret}", repr(secret * 2), f"{secret.sum()}"):
        assert "1.23" not in text and "6.78" not in text and "secret" in text
