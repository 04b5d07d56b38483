"""Live modules of open size: what was told of the input is carried to the result, which is read back without a shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import decascade as dc

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def conv(rank: int, *args: Any, **kwargs: Any) -> Any:
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank](*args, **kwargs)


def expand(rank: int) -> Any:
    """Merged, its border needs a channel of ones that is padded to the input."""
    return nn.Sequential(conv(rank, 3, 16, 1), conv(rank, 16, 4, 3, padding=1)).eval()


def normed(rank: int) -> Any:
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank](3)
    norm.bias.data += 1
    return nn.Sequential(norm, conv(rank, 3, 6, 3, padding=(1, *(0,) * (rank - 1)))).eval()


def same(net: Any, merged: Any, *shapes: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.no_grad():
        torch.testing.assert_close(merged(*inputs), net(*inputs), rtol=1e-4, atol=1e-5)


SHAPES: dict[str, tuple[Any, ...]] = {
    "open": (1, 3, None), "batch open too": (None, 3, None), "minus one": (1, 3, -1), "names": ("N", 3, "S"),
}


@pytest.mark.parametrize(("rank", "form"), [*((rank, form) for rank in (1, 2) for form in SHAPES), (3, "open")])
def test_channels_of_ones_at_open_sizes(form: str, rank: int) -> None:
    torch.manual_seed(0)
    first, channels, rest = SHAPES[form]
    net = expand(rank)
    result = dc.merge(net, input_shape=(first, channels, *([rest] if rest != "S" else ["S"]) * rank))
    assert [c.decision for c in result.report.cascades] == ["merged"]
    assert result.report.verification.same
    for size in (5, 8):
        same(net, result.model, (2, 3, *range(size, size + rank)))
    assert dc.inspect(result.model).cascades == ()  # read without a shape


def test_shape_by_name_and_no_shape_at_all() -> None:
    net = expand(2)
    for shape in ({"input": (1, 3, None, None)}, None):
        assert dc.merge(net, input_shape=shape).report.verification.same


@pytest.mark.parametrize("shape", [(2, 3, 90, 70), (1, 3, None, 70), (1, 3, None, None)])
def test_a_normalisation_before_a_padded_axis(shape: Any) -> None:
    torch.manual_seed(0)
    net = normed(2)
    result = dc.merge(net, input_shape=shape, policy="always")
    assert [c.decision for c in result.report.cascades] == ["merged"]
    same(net, result.model, (2, 3, 90, 70))


def test_with_a_guard() -> None:
    torch.manual_seed(0)
    net = expand(2)
    result = dc.merge(net, input_shape=(1, 3, None, None), input_range=(0, 1), guard=True)
    assert result.report.verification.same
    x = torch.rand(2, 3, 9, 10)
    with torch.no_grad():
        y, outside = result.model(x)
        assert float(outside.abs().max()) == 0
        assert float(result.model(x + 2)[1].min()) > 0
        torch.testing.assert_close(y, net(x), rtol=1e-4, atol=1e-5)


class Two(nn.Module):
    """Each of two inputs is read by a cascade of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = expand(2), expand(2)

    def forward(self, left: Any, right: Any) -> Any:
        return self.a(left) + self.b(right)


@pytest.mark.parametrize("shape", [
    [(1, 3, None, None), (1, 3, None, None)], {"left": (1, 3, None, None)}, {"right": (2, 3, 8, 9), "left": (2, 3, 8, 9)},
])  # fmt: skip
def test_several_inputs(shape: Any) -> None:
    torch.manual_seed(0)
    net = Two().eval()
    result = dc.merge(net, input_shape=shape)
    assert [c.decision for c in result.report.cascades] == ["merged", "merged"]
    same(net, result.model, (1, 3, 8, 9), (1, 3, 8, 9))


class Mlp(nn.Module):
    """Token-wise: the features are the last axis, of an input of any rank."""

    def __init__(self, activation: bool) -> None:
        super().__init__()
        self.a, self.b, self.activation = nn.Linear(3, 8), nn.Linear(8, 2), activation

    def forward(self, t: Any) -> Any:
        h = self.a(t)
        return self.b(functional.relu(h) if self.activation else h)


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 3), (None, 5, 3), (2, None, 3), (2, 4, 5, 3), (None, None, 3), (2, 3)])
def test_linear_first(shape: Any, activation: bool) -> None:
    torch.manual_seed(0)
    net = Mlp(activation).eval()
    result = dc.merge(net, input_shape=shape)
    assert result.report.verification.same
    same(net, result.model, tuple(n or 4 for n in shape))
    assert dc.verify(net, result.model, input_shape=shape).same


class ChannelPad(nn.Module):
    """Pads the channel axis in its own code."""

    def __init__(self, rank: int, module: bool) -> None:
        super().__init__()
        self.c, self.amounts = conv(rank, 5, 4, 3), (0, 0) * rank + (1, 1)
        self.pad = nn.ConstantPad3d((0, 0, 0, 0, 1, 1), 0.5) if module else None

    def forward(self, t: Any) -> Any:
        return self.c(functional.pad(t, self.amounts) if self.pad is None else self.pad(t))


@pytest.mark.parametrize(("rank", "module"), [(1, False), (2, False), (3, False), (2, True)])
@pytest.mark.parametrize("told", [True, False])
def test_channels_that_the_model_pads_itself(rank: int, module: bool, told: bool) -> None:
    net = ChannelPad(rank, module).eval()
    shape = (2, 3, *range(8, 8 + rank))
    result = dc.merge(net, input_shape=shape if told else None)
    assert result.report.verification.same
    same(net, result.model, shape)


def test_a_result_stays_open_to_other_sizes() -> None:
    """Told one size, a result that is right at every size is read back as of any size."""
    result = dc.merge(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 3)).eval(), input_shape=(2, 3, 24, 25))
    again = dc.merge(result.model)
    assert dc.verify(result.model, again.model, data=np.zeros((2, 3, 11, 12), np.float32)).same
