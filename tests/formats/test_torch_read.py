"""Every operation: the float64 interpreter on what was read equals PyTorch, from a live module and from torch.export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decascade.formats.torch.format import FORMAT, read
from decascade.ir.interpret import run
from decascade.ir.ops import Foreign

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using padding='same':UserWarning", "ignore:.*LeafSpec:FutureWarning", "ignore:The tensor attributes:UserWarning"
)


class Fn(nn.Module):
    """A function of the input, and of `w`, a parameter."""

    def __init__(self, function: Callable[..., Any], *w: int) -> None:
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(w)) if w else None

    def forward(self, x: Any) -> Any:
        return self.function(x) if self.w is None else self.function(x, self.w)


def _image(*layers: Any, size: tuple[int, ...] = (2, 4, 9, 8)) -> tuple[Any, tuple[int, ...]]:
    return nn.Sequential(*layers), size


def _shuffle(x: Any, groups: int) -> Any:
    n, c, h, w = x.size()
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)


def _squeezed(x: Any) -> Any:
    return F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)


def _split_add(x: Any) -> Any:
    a, b = x.chunk(2, dim=1)
    return a - 2 * b


def _gain(x: Any, w: Any) -> Any:
    return x * w.reshape(1, -1, 1, 1) + w[:, None, None]


def _functional_norm(x: Any, w: Any) -> Any:
    return F.batch_norm(x, w[0].detach(), w[1].detach() ** 2, w[2], w[3], eps=0.5)


def _excited(x: Any) -> Any:
    return x * torch.sigmoid(x.mean((2, 3), True))


def _inplace(x: Any) -> Any:
    y = x * 2
    z = y
    z += 1  # y too
    return F.relu_(y) + z


IMAGE, LINE, CUBE, FLAT = (2, 4, 9, 8), (2, 4, 11), (2, 4, 5, 6, 4), (3, 12)
CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...], set[str]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), LINE, {"Conv"}),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), groups=2, bias=False), IMAGE, {"Conv"}),
    "conv3d": (lambda: nn.Conv3d(4, 2, 3, padding=1), CUBE, {"Conv"}),
    "conv same": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same", dilation=(1, 2)), IMAGE, {"Conv"}),
    "conv valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), IMAGE, {"Conv"}),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), IMAGE, {"Conv"}),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGE, {"Foreign"}),
    "F.conv2d": (lambda: Fn(lambda x, w: F.conv2d(x, w, stride=2, padding=1), 6, 4, 3, 3), IMAGE, {"Conv"}),
    "F.conv2d same": (lambda: Fn(lambda x, w: F.conv2d(x, w, padding="same"), 6, 4, 2, 3), IMAGE, {"Conv"}),
    "computed kernel": (lambda: Fn(lambda x, w: F.conv2d(x, torch.tanh(w) * 2, padding=1), 6, 4, 3, 3), IMAGE, {"Conv"}),
    "kernel from data": (lambda: Fn(lambda x: F.conv2d(x, x.mean((0, 2, 3)).reshape(1, 4, 1, 1))), IMAGE, {"Foreign"}),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), LINE, {"ConvTranspose"}),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, groups=2, dilation=2), IMAGE, {"ConvTranspose"}),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 2, 2, stride=2), CUBE, {"ConvTranspose"}),
    "linear": (lambda: nn.Linear(12, 5), FLAT, {"Dense"}),
    "linear on the last axis": (lambda: nn.Linear(11, 5, bias=False), LINE, {"Dense"}),
    "addmm": (lambda: Fn(lambda x, w: torch.addmm(w[0], x, w), 12, 12), FLAT, {"Dense"}),
    "matmul": (lambda: Fn(lambda x, w: x @ w, 12, 5), FLAT, {"Dense"}),
    "batch norm 1d": (lambda: nn.BatchNorm1d(12, eps=1e-3), FLAT, {"Affine"}),
    "batch norm 1d on lines": (lambda: nn.BatchNorm1d(4), LINE, {"Affine"}),
    "batch norm 2d": (lambda: nn.BatchNorm2d(4, affine=False), IMAGE, {"Affine"}),
    "batch norm 3d": (lambda: nn.BatchNorm3d(4, eps=0.1), CUBE, {"Affine"}),
    "batch statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), IMAGE, {"Foreign"}),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGE, {"Foreign"}),
    "tracked instance norm": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE, {"Affine"}),
    "F.batch_norm": (lambda: Fn(_functional_norm, 4, 4), IMAGE, {"Affine"}),
    "group norm": (lambda: nn.GroupNorm(2, 4), IMAGE, {"Foreign"}),
    "layer norm": (lambda: nn.LayerNorm(8), IMAGE, {"Foreign"}),
    "avg pool": (lambda: nn.AvgPool2d(3, 2, padding=1), IMAGE, {"Pool"}),
    "avg pool 1d": (lambda: nn.AvgPool1d(3, padding=1, count_include_pad=False), LINE, {"Pool"}),
    "avg pool 3d": (lambda: nn.AvgPool3d(2), CUBE, {"Pool"}),
    "avg pool ceil": (lambda: nn.AvgPool2d(2, ceil_mode=True), IMAGE, {"Foreign"}),
    "avg pool divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), IMAGE, {"Foreign"}),
    "max pool": (lambda: nn.MaxPool2d((3, 2), 2, padding=1, dilation=(1, 2)), IMAGE, {"Pool"}),
    "max pool ceil": (lambda: nn.MaxPool2d(2, ceil_mode=True), IMAGE, {"Pool"}),
    "max pool 1d": (lambda: nn.MaxPool1d(3, 1), LINE, {"Pool"}),
    "max pool indices": (lambda: nn.MaxPool2d(2, return_indices=True), IMAGE, {"Foreign"}),
    "F.max_pool2d": (lambda: Fn(lambda x: F.max_pool2d(x, 3, 2, 1)), IMAGE, {"Pool"}),
    "F.avg_pool2d": (lambda: Fn(lambda x: F.avg_pool2d(x, (2, 3), padding=(0, 1))), IMAGE, {"Pool"}),
    "pool over the map": (lambda: Fn(lambda x: F.avg_pool2d(x, x.shape[2:])), IMAGE, {"Pool", "GlobalPool"}),
    "max over the line": (lambda: Fn(lambda x: F.max_pool1d(x, kernel_size=x.size(2))), LINE, {"Pool", "GlobalPool"}),
    "kernel from sizes": (lambda: Fn(lambda x: F.avg_pool2d(x, x.shape[1] // 2, stride=x.size(1) - 3)), IMAGE, {"Pool"}),
    "adaptive avg 1": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE, {"GlobalPool"}),
    "adaptive avg halves": (lambda: nn.AdaptiveAvgPool2d((3, 4)), IMAGE, {"Pool"}),
    "adaptive avg same": (lambda: nn.AdaptiveAvgPool2d((None, 8)), IMAGE, {"Identity"}),
    "adaptive avg uneven": (lambda: nn.AdaptiveAvgPool2d((2, 5)), IMAGE, {"Foreign"}),
    "adaptive max 1": (lambda: nn.AdaptiveMaxPool1d(1), LINE, {"GlobalPool"}),
    "F.adaptive_avg_pool3d": (lambda: Fn(lambda x: F.adaptive_avg_pool3d(x, (1, 1, 1))), CUBE, {"GlobalPool"}),
    "mean": (lambda: Fn(lambda x: x.mean((2, 3))), IMAGE, {"GlobalPool"}),
    "mean keepdim": (lambda: Fn(lambda x: torch.mean(x, dim=[-1, -2], keepdim=True)), IMAGE, {"GlobalPool"}),
    "mean of channels": (lambda: Fn(lambda x: x.mean(1)), IMAGE, {"Foreign"}),
    "amax": (lambda: Fn(lambda x: torch.amax(x, (2, 3))), IMAGE, {"GlobalPool"}),
    "flatten": (lambda: nn.Flatten(), IMAGE, {"Flatten"}),
    "torch.flatten": (lambda: Fn(lambda x: torch.flatten(x, 1)), CUBE, {"Flatten"}),
    "flatten all": (lambda: Fn(lambda x: torch.flatten(x)), IMAGE, {"Foreign"}),
    "view": (lambda: Fn(lambda x: x.view(x.size(0), -1)), IMAGE, {"Flatten"}),
    "view by shape": (lambda: Fn(lambda x: x.view(x.shape[0], x.shape[1] * 72)), IMAGE, {"Flatten"}),
    "reshape": (lambda: Fn(lambda x: x.reshape(-1, 288)), IMAGE, {"Flatten"}),
    "flatten channels last": (lambda: Fn(lambda x: x.permute(0, 2, 3, 1).reshape(x.size(0), -1)), IMAGE, {"Flatten"}),
    "squeeze": (lambda: Fn(_squeezed), IMAGE, {"GlobalPool", "Flatten"}),
    "squeeze both": (lambda: Fn(lambda x: x.mean((2, 3), keepdim=True).squeeze()), IMAGE, {"GlobalPool", "Flatten"}),
    "index": (lambda: Fn(lambda x: x.mean((2, 3), True)[:, :, 0, 0]), IMAGE, {"GlobalPool", "Flatten"}),
    "identity": (lambda: nn.Identity(), IMAGE, {"Identity"}),
    "dropout": (lambda: nn.Dropout2d(0.5), IMAGE, {"Identity"}),
    "F.dropout": (lambda: Fn(lambda x: F.dropout(x, 0.5, training=False)), IMAGE, {"Identity"}),
    "cat": (lambda: Fn(lambda x: torch.cat([x, x * 2], 1)), IMAGE, {"Concat", "Affine"}),
    "cat of rows": (lambda: Fn(lambda x: torch.cat((x, F.relu(x)), dim=-2)), IMAGE, {"Concat", "Activation"}),
    "add": (lambda: Fn(lambda x: x + F.relu(x)), IMAGE, {"Add", "Activation"}),
    "add alpha": (lambda: Fn(lambda x: torch.add(x, F.relu(x), alpha=-1)), IMAGE, {"Add", "Activation"}),
    "sub": (lambda: Fn(lambda x: F.relu(x) - x), IMAGE, {"Add", "Activation"}),
    "sum": (lambda: Fn(lambda x: sum([x, F.relu(x)])), IMAGE, {"Add", "Activation", "Identity"}),
    "add broadcast": (lambda: Fn(lambda x: x + x.mean((2, 3), True)), IMAGE, {"Foreign", "GlobalPool"}),
    "scale": (lambda: Fn(lambda x: 2 - x / 3 * 0.5), IMAGE, {"Affine"}),
    "gain": (lambda: Fn(_gain, 4), IMAGE, {"Affine"}),
    "bias map": (lambda: Fn(lambda x, w: x - w, 4, 9, 8), IMAGE, {"BiasMap"}),
    "row bias": (lambda: Fn(lambda x, w: w + x, 1, 4, 1, 8), IMAGE, {"BiasMap"}),
    "mask": (lambda: Fn(lambda x, w: x * w, 4, 9, 8), IMAGE, {"Foreign"}),
    "squeeze and excite": (lambda: Fn(_excited), IMAGE, {"Product", "GlobalPool", "Activation"}),
    "neg": (lambda: Fn(lambda x: -x), IMAGE, {"Affine"}),
    "zero pad": (lambda: nn.ZeroPad2d((1, 2, 0, 3)), IMAGE, {"Pad"}),
    "constant pad": (lambda: nn.ConstantPad1d(2, 1.5), LINE, {"Pad"}),
    "F.pad": (lambda: Fn(lambda x: F.pad(x, (1, -1, -2, 0, 0, 1), value=1.0)), IMAGE, {"Pad"}),
    "F.pad reflect": (lambda: Fn(lambda x: F.pad(x, (1, 1, 0, 2), mode="reflect")), IMAGE, {"Foreign"}),
    "upsample": (lambda: nn.Upsample(scale_factor=2), IMAGE, {"Upsample"}),
    "upsample to size": (lambda: nn.UpsamplingNearest2d(size=(18, 24)), IMAGE, {"Upsample"}),
    "bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE, {"Foreign"}),
    "F.interpolate": (lambda: Fn(lambda x: F.interpolate(x, scale_factor=(2.0, 3.0))), IMAGE, {"Upsample"}),
    "interpolate by half": (lambda: Fn(lambda x: F.interpolate(x, scale_factor=1.5)), IMAGE, {"Foreign"}),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), IMAGE, {"Foreign"}),
    "nn.ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGE, {"Select"}),
    "channel shuffle": (lambda: Fn(lambda x: _shuffle(x, 2)), IMAGE, {"Select"}),
    "chunk": (lambda: Fn(_split_add), IMAGE, {"Select", "Affine", "Add"}),
    "split": (lambda: Fn(lambda x: x.split([1, 3], dim=1)), IMAGE, {"Select"}),
    "channel slice": (lambda: Fn(lambda x: x[:, 1:4:2]), IMAGE, {"Select"}),
    "channel permutation": (lambda: Fn(lambda x: x[:, [2, 0, 3, 1]]), IMAGE, {"Select"}),
    "flip of channels": (lambda: Fn(lambda x: torch.flip(x, (1,))), IMAGE, {"Select"}),
    "crop": (lambda: Fn(lambda x: x[:, :, 1:-1, 2:]), IMAGE, {"Pad"}),
    "every second": (lambda: Fn(lambda x: x[..., ::2, ::3]), IMAGE, {"Pool"}),
    "transpose": (lambda: Fn(lambda x: x.transpose(2, 3)), IMAGE, {"Foreign"}),
    "relu": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True)), IMAGE, {"Activation", "Affine"}),
    "relu method": (lambda: Fn(lambda x: x.relu()), IMAGE, {"Activation"}),
    "relu6": (lambda: nn.ReLU6(), IMAGE, {"Activation"}),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 0.25), IMAGE, {"Activation"}),
    "clamp": (lambda: Fn(lambda x: torch.clamp(x, min=-0.3)), IMAGE, {"Activation"}),
    "clamp at zero": (lambda: Fn(lambda x: x.clamp_min(0)), IMAGE, {"Activation"}),
    "leaky": (lambda: nn.LeakyReLU(0.2), IMAGE, {"Activation"}),
    "prelu": (lambda: nn.PReLU(4), IMAGE, {"Activation"}),
    "prelu single": (lambda: nn.PReLU(), LINE, {"Activation"}),
    "elu": (lambda: nn.ELU(0.7), IMAGE, {"Activation"}),
    "selu": (lambda: nn.SELU(), IMAGE, {"Activation"}),
    "sigmoid": (lambda: nn.Sigmoid(), FLAT, {"Activation"}),
    "tanh": (lambda: nn.Tanh(), FLAT, {"Activation"}),
    "hardsigmoid": (lambda: nn.Hardsigmoid(), FLAT, {"Activation"}),
    "hardswish": (lambda: nn.Hardswish(), IMAGE, {"Activation"}),
    "silu": (lambda: nn.SiLU(), IMAGE, {"Activation"}),
    "gelu": (lambda: nn.GELU(), FLAT, {"Activation"}),
    "gelu tanh": (lambda: nn.GELU("tanh"), FLAT, {"Activation"}),
    "softplus": (lambda: nn.Softplus(), FLAT, {"Activation"}),
    "softsign": (lambda: nn.Softsign(), FLAT, {"Activation", "Foreign"}),
    "softmax": (lambda: nn.Softmax(1), FLAT, {"Activation"}),
    "rrelu": (lambda: nn.RReLU(0.1, 0.3), IMAGE, {"Activation"}),
    "exp of abs": (lambda: Fn(lambda x: torch.exp(-torch.abs(x)).sqrt()), FLAT, {"Activation", "Affine"}),
    "in place": (lambda: Fn(_inplace), IMAGE, {"Affine", "Activation", "Add"}),
    "topk": (lambda: Fn(lambda x: torch.topk(x, 3, dim=1)), FLAT, {"Foreign"}),
    "lstm": (lambda: nn.LSTM(11, 5, batch_first=True), LINE, {"Foreign"}),
}
"""name: module, input shape, kinds of operations allowed."""

DECOMPOSED = {"softsign": "torch.export writes it as x / (abs(x) + 1)"}
"""Understood in a live module only, and why."""


def _random_statistics(module: Any) -> None:
    for part in module.modules():
        for name in ("running_mean", "running_var"):
            if getattr(part, name, None) is not None:
                getattr(part, name).uniform_(0.5, 2.0)
        if getattr(part, "running_mean", None) is not None and part.affine:
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)


def _build(name: str) -> tuple[Any, np.ndarray[Any, Any]]:
    build, shape, _ = CASES[name]
    torch.manual_seed(3)
    module = build().eval()
    _random_statistics(module)
    return module, np.random.default_rng(5).standard_normal(shape)


def _expected(module: Any, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    import copy

    with torch.no_grad():
        result = copy.deepcopy(module).double()(torch.tensor(x))
    return [np.asarray(leaf) for leaf in torch.utils._pytree.tree_leaves(result)]


def _check(document: Any, module: Any, x: np.ndarray[Any, Any]) -> None:
    expected = _expected(module, x)
    assert len(document.graph.outputs) == len(expected)
    found = run(document.graph, {document.graph.inputs[0]: x})
    for name, want in zip(document.graph.outputs, expected, strict=True):
        assert found[name].shape == want.shape
        stated = document.graph.shape(name)
        if stated is not None:
            assert len(stated) == want.ndim
            assert all(isinstance(a, str) or a == b for a, b in zip(stated, want.shape, strict=True))
        # softplus is linear above 20 in torch, and weights that torch computes are computed in float32
        np.testing.assert_allclose(found[name], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_live_module_equals_torch(name: str) -> None:
    module, x = _build(name)
    document = read(module, x.shape)
    kinds = {type(node.op).__name__ for node in document.graph.nodes}
    assert kinds <= CASES[name][2], kinds
    _check(document, module, x)


@pytest.mark.parametrize("name", CASES)
def test_exported_program_equals_torch(name: str) -> None:
    module, x = _build(name)
    program = torch.export.export(module, (torch.tensor(x, dtype=torch.float32),))
    document = read(program)
    kinds = {type(node.op).__name__ for node in document.graph.nodes}
    if name not in DECOMPOSED:
        assert ("Foreign" in kinds) <= ("Foreign" in CASES[name][2]), [(n.name, n.op) for n in document.graph.nodes]
    _check(document, module, x)


CORE = (
    "conv1d", "conv same", "depthwise", "F.conv2d", "transposed 2d", "linear", "linear on the last axis", "batch norm 2d",
    "F.batch_norm", "group norm", "avg pool", "max pool", "max pool indices", "adaptive avg 1", "adaptive max 1", "mean",
    "flatten", "view", "flatten channels last", "squeeze", "cat", "add", "scale", "gain", "bias map", "zero pad", "upsample",
    "pixel shuffle", "nn.ChannelShuffle", "channel shuffle", "chunk", "channel permutation", "crop", "relu", "relu6", "prelu",
    "hardswish", "gelu", "softmax", "topk",
)
"""What run_decompositions takes apart, or might."""


@pytest.mark.parametrize("name", CORE)
def test_core_aten_program_equals_torch(name: str) -> None:
    module, x = _build(name)
    program = torch.export.export(module, (torch.tensor(x, dtype=torch.float32),)).run_decompositions()
    _check(read(program), module, x)


@pytest.mark.parametrize("name", CASES)
def test_written_unchanged_is_the_same_function(name: str) -> None:
    module, x = _build(name)
    document = read(module, x.shape)
    written = FORMAT.write(document, document.graph)
    given = {document.graph.inputs[0]: x.astype(np.float32)}
    before, after = FORMAT.run(module, given), FORMAT.run(written, given)
    assert list(before) == list(after)
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])


@pytest.mark.parametrize("name", ["conv2d", "batch norm 3d", "transposed 1d", "linear", "F.conv2d"])
def test_input_shape_is_told_by_the_first_layer(name: str) -> None:
    module, x = _build(name)
    document = read(module)
    shape = document.graph.shape(document.graph.inputs[0])
    assert shape is not None
    assert len(shape) == x.ndim
    assert shape[1] == x.shape[1]
    _check(document, module, x)


@pytest.mark.parametrize("name", ["view", "pool over the map", "channel shuffle", "squeeze", "crop", "every second"])
def test_understood_at_unknown_size(name: str) -> None:
    class Stem(nn.Module):
        def __init__(self, rest: Any) -> None:
            super().__init__()
            self.stem, self.rest = nn.Conv2d(4, 4, 3, padding=1), rest

        def forward(self, x: Any) -> Any:
            return self.rest(self.stem(x))

    rest, x = _build(name)
    module = Stem(rest).eval()
    document = read(module)
    assert document.graph.shape("x") == ("N", 4, "H", "W")
    assert {type(node.op).__name__ for node in document.graph.nodes} <= CASES[name][2] | {"Conv"}
    _check(document, module, x)


def test_broken_oracle_is_noticed() -> None:
    module, x = _build("conv2d")
    document = read(module, x.shape)
    with torch.no_grad():
        module.weight[0, 0, 0, 0] += 0.01  # shared with the graph, so both see it
    _check(document, module, x)
    other, _ = _build("conv2d")
    with pytest.raises(AssertionError):
        _check(document, other, x)


def test_foreign_has_a_meaning() -> None:
    module, x = _build("group norm")
    document = read(module, x.shape)
    (node,) = document.graph.nodes
    assert isinstance(node.op, Foreign)
    assert node.op.kind == "GroupNorm"
    assert node.origin == ("0",)
