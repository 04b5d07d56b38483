"""Training-time blocks of the literature, written from their papers, for one, two and three spatial axes.

Every block is linear.  `build(name, rank)` gives it with random weights and batch-norm statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


def conv(rank: int, *args: Any, **kwargs: Any) -> Any:
    """nn.Conv1d, Conv2d or Conv3d."""
    return getattr(nn, f"Conv{rank}d")(*args, **kwargs)


def norm(rank: int, channels: int) -> Any:
    """nn.BatchNorm1d, 2d or 3d with an epsilon of its own."""
    return getattr(nn, f"BatchNorm{rank}d")(channels, eps=1e-3)


def function(rank: int, name: str) -> Any:
    """F.conv1d and the like."""
    return getattr(F, f"{name}{rank}d")


class Sum(nn.Module):
    """Parallel branches, added."""

    def __init__(self, *branches: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Any) -> Any:
        return sum(branch(x) for branch in self.branches)


class Skip(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: Any) -> Any:
        return x + self.body(x)


def conv_norm(rank: int, channels: int, out: int, kernel: Any, **options: Any) -> Any:
    return nn.Sequential(conv(rank, channels, out, kernel, bias=False, **options), norm(rank, out))


def repvgg(rank: int, channels: int = 6) -> Any:
    """RepVGG (Ding et al. 2021): 3×3, 1×1 and identity, each with its own batch norm."""
    return Sum(conv_norm(rank, channels, channels, 3, padding=1), conv_norm(rank, channels, channels, 1), norm(rank, channels))


def repvgg_down(rank: int) -> Any:
    """RepVGG's first block of a stage: stride 2, no identity."""
    return Sum(conv_norm(rank, 5, 8, 3, padding=1, stride=2), conv_norm(rank, 5, 8, 1, stride=2))


def acnet(rank: int) -> Any:
    """ACNet (Ding et al. 2019): a square kernel and one along each axis."""
    lines = [tuple(3 if axis == at else 1 for axis in range(rank)) for at in range(rank)]
    branches = [conv_norm(rank, 4, 6, line, padding=tuple(k // 2 for k in line)) for line in lines]
    return Sum(conv_norm(rank, 4, 6, 3, padding=1), *branches)


class NormAndPad(nn.Module):
    """DBB's BNAndPadLayer: pads with what the batch norm makes of zero, so that the border stays that of one kernel."""

    def __init__(self, rank: int, channels: int, pad: int) -> None:
        super().__init__()
        self.bn, self.pad, self.rank = norm(rank, channels), pad, rank

    def forward(self, x: Any) -> Any:
        y = self.bn(x)
        value = self.bn.bias.detach() - self.bn.running_mean * self.bn.weight.detach() / torch.sqrt(
            self.bn.running_var + self.bn.eps
        )
        y = F.pad(y, [self.pad] * (2 * self.rank))
        value = value.view(1, -1, *[1] * self.rank)
        for axis in range(2, self.rank + 2):
            lead = (slice(None),) * axis
            y[(*lead, slice(0, self.pad))] = value
            y[(*lead, slice(-self.pad, None))] = value
        return y


class PadThenNorm(nn.Module):
    """The same without assignments: zeros before a batch norm become what it makes of them."""

    def __init__(self, rank: int, channels: int, pad: int) -> None:
        super().__init__()
        self.bn, self.pads = norm(rank, channels), [pad] * (2 * rank)

    def forward(self, x: Any) -> Any:
        return self.bn(F.pad(x, self.pads))


def dbb(rank: int, middle: Callable[..., Any] | None, stride: int = 1, channels: int = 4, out: int = 5) -> Any:
    """Diverse Branch Block (Ding et al. 2021): k×k; 1×1; 1×1 → k×k; 1×1 → average pool.

    `middle` is the layer between the two of a sequence; None: a plain batch norm, and the second layer pads with zeros.
    """
    pad = 1 if middle is None else 0
    between = partial(middle, rank, pad=1) if middle is not None else partial(norm, rank)
    average = getattr(nn, f"AvgPool{rank}d")(3, stride, padding=pad)
    return Sum(
        conv_norm(rank, channels, out, 3, padding=1, stride=stride),
        conv_norm(rank, channels, out, 1, stride=stride),
        nn.Sequential(
            conv(rank, channels, channels, 1, bias=False),
            between(channels),
            conv(rank, channels, out, 3, stride=stride, padding=pad, bias=False),
            norm(rank, out),
        ),
        nn.Sequential(conv(rank, channels, out, 1, bias=False), between(out), average, norm(rank, out)),
    )


def dbb_multi_scale(rank: int) -> Any:
    """DBB's multi-scale form: kernels 1, 3 and 5 beside each other, strided."""
    return Sum(*(conv_norm(rank, 4, 6, k, padding=k // 2, stride=2) for k in (1, 3, 5)))


def mobileone(rank: int, depthwise: bool) -> Any:
    """MobileOne (Vasu et al. 2023): k over-parameterised branches, a 1×1 branch and a batch norm alone."""
    kernel, groups = (3, 6) if depthwise else (1, 1)
    many = [conv_norm(rank, 6, 6, kernel, padding=kernel // 2, groups=groups) for _ in range(4)]
    scale = [conv_norm(rank, 6, 6, 1, groups=groups)] if depthwise else []
    return Sum(*many, *scale, norm(rank, 6))


def sesr(rank: int) -> Any:
    """SESR's collapsible linear block (Bhardwaj et al. 2022): k×k to many channels, 1×1 back, short residual."""
    return Skip(conv(rank, 5, 32, 3, padding=1), conv(rank, 32, 5, 1))


class Masked(nn.Module):
    """ECBSR's 1×1 → fixed filter: padded with the bias by assignment, scaled depthwise mask."""

    def __init__(self, channels: int, out: int, mask: Any) -> None:
        super().__init__()
        first = nn.Conv2d(channels, out, 1)
        self.k0, self.b0 = first.weight, first.bias
        self.scale, self.bias = nn.Parameter(torch.randn(out, 1, 1, 1)), nn.Parameter(torch.randn(out))
        self.mask = nn.Parameter(torch.tensor(mask).expand(out, 1, 3, 3).clone(), requires_grad=False)

    def forward(self, x: Any) -> Any:
        y = F.pad(F.conv2d(x, self.k0, self.b0), (1, 1, 1, 1), "constant", 0)
        b0 = self.b0.view(1, -1, 1, 1)
        y[:, :, 0:1, :] = b0
        y[:, :, -1:, :] = b0
        y[:, :, :, 0:1] = b0
        y[:, :, :, -1:] = b0
        return F.conv2d(y, self.scale * self.mask, self.bias, groups=self.mask.shape[0])


class ExpandThenSqueeze(nn.Module):
    """ECBSR's 1×1 → 3×3, padded with the first layer's bias by assignment."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, out, 3)

    def forward(self, x: Any) -> Any:
        y = F.pad(self.first(x), (1, 1, 1, 1), "constant", 0)
        b0 = self.first.bias.view(1, -1, 1, 1)
        y[:, :, 0:1, :] = b0
        y[:, :, -1:, :] = b0
        y[:, :, :, 0:1] = b0
        y[:, :, :, -1:] = b0
        return self.second(y)


def ecbsr(rank: int) -> Any:
    """ECBSR's edge-oriented block (Zhang et al. 2021): 3×3, expand-squeeze, two Sobels and a Laplacian."""
    assert rank == 2
    sobel = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
    across = [list(row) for row in zip(*sobel, strict=True)]
    laplace = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]
    masks = [Masked(4, 4, mask) for mask in (sobel, across, laplace)]
    return Skip(Sum(nn.Conv2d(4, 4, 3, padding=1), ExpandThenSqueeze(4, 4), *masks))


def expandnet3(rank: int, stride: int = 1) -> Any:
    """ExpandNet-CL (Guo et al. 2020): 1×1, k×k, 1×1; the padding stands in the first."""
    return nn.Sequential(conv(rank, 4, 16, 1, padding=1), conv(rank, 16, 16, 3, stride=stride), conv(rank, 16, 6, 1))


def expandnet5(rank: int, stride: int = 1) -> Any:
    """ExpandNet-CK with its 1×1s: a 5×5 kernel as 1×1, 3×3, 1×1, 3×3, 1×1."""
    return nn.Sequential(
        conv(rank, 3, 12, 1, padding=2, bias=False),
        conv(rank, 12, 12, 3, bias=False),
        conv(rank, 12, 16, 1),
        conv(rank, 16, 16, 3, stride=stride),
        conv(rank, 16, 5, 1),
    )


class Orepa(nn.Module):
    """OREPA (Hu et al. 2022): one kernel, made at every call from branches with linear scaling layers."""

    def __init__(self, rank: int, channels: int = 4, out: int = 6) -> None:
        super().__init__()
        self.rank, kernel = rank, (3,) * rank
        self.origin = nn.Parameter(torch.randn(out, channels, *kernel))
        self.average = nn.Parameter(torch.randn(out, channels))
        self.first = nn.Parameter(torch.randn(8, channels))
        self.second = nn.Parameter(torch.randn(out, 8, *kernel))
        self.pointwise = nn.Parameter(torch.randn(out, channels))
        self.vector = nn.Parameter(torch.randn(4, out))
        self.register_buffer("mean", torch.full(kernel, 3.0**-rank))
        centre = torch.zeros(kernel)
        centre[(1,) * rank] = 1
        self.register_buffer("centre", centre)
        self.bn = norm(rank, out)

    def kernel(self) -> Any:
        """The weight (out, channels, *3)."""
        axes = "xyz"[: self.rank]
        parts = [
            self.origin,
            torch.einsum(f"oi,{axes}->oi{axes}", self.average, self.mean),
            torch.einsum(f"mi,om{axes}->oi{axes}", self.first, self.second),
            torch.einsum(f"oi,{axes}->oi{axes}", self.pointwise, self.centre),
        ]
        return sum(torch.einsum(f"oi{axes},o->oi{axes}", part, self.vector[i]) for i, part in enumerate(parts))

    def forward(self, x: Any) -> Any:
        return self.bn(function(self.rank, "conv")(x, self.kernel(), padding=1))


def replknet(rank: int) -> Any:
    """RepLKNet (Ding et al. 2022): a large depthwise kernel and a small one beside it."""
    large, small = (13, 5) if rank < 3 else (7, 3)
    options = [{"padding": k // 2, "groups": 6} for k in (large, small)]
    return Sum(*(conv_norm(rank, 6, 6, k, **o) for k, o in zip((large, small), options, strict=True)))


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Any) -> Any:
        n, c, *size = x.shape[0], x.shape[1], *(x.shape[axis] for axis in range(2, 2 + self.rank))
        return x.view(n, self.groups, c // self.groups, *size).transpose(1, 2).reshape(n, c, *size)

    rank = 2


def fean(rank: int, bias: bool) -> Any:
    """FEAN's block: grouped 1×1, channel shuffle, depthwise 3×3, 1×1, and a skip."""
    shuffle = Shuffle(2)
    shuffle.rank = rank
    return Skip(
        conv(rank, 6, 12, 1, groups=2, bias=bias),
        shuffle,
        conv(rank, 12, 12, 3, padding=1, groups=12, bias=bias),
        conv(rank, 12, 6, 1, bias=bias),
    )


def bsconv_u(rank: int) -> Any:
    """BSConv-U (Haase & Amthor 2020): 1×1, then depthwise k×k."""
    return nn.Sequential(conv(rank, 5, 8, 1, bias=False), conv(rank, 8, 8, 3, padding=1, groups=8), norm(rank, 8))


def bsconv_s(rank: int) -> Any:
    """BSConv-S: two 1×1s through a narrow middle, then depthwise k×k."""
    return nn.Sequential(
        conv(rank, 8, 2, 1, bias=False), conv(rank, 2, 8, 1, bias=False), conv(rank, 8, 8, 3, padding=1, groups=8)
    )


def separable(rank: int, bias: bool, stride: int = 1) -> Any:
    """A kernel per axis, one after the other (k×1, 1×k), as in Inception-v3 and ERFNet without its inner activation."""
    layers, taps = list[Any](), 5 if rank == 2 else 3
    for at in range(rank):
        kernel = tuple(taps if axis == at else 1 for axis in range(rank))
        steps = tuple(stride if axis == at else 1 for axis in range(rank))
        last = at == rank - 1
        layers.append(conv(rank, 4, 4, kernel, stride=steps, padding=tuple(k // 2 for k in kernel), bias=bias or last))
    return nn.Sequential(*layers)


def mbconv(rank: int, stride: int = 1, shift: bool = True) -> Any:
    """MobileNetV2's inverted residual with its activations removed (DepthShrinker's setting)."""

    def normed(channels: int) -> Any:
        return norm(rank, channels) if shift else nn.Identity()

    body = (
        conv(rank, 4, 16, 1, bias=False),
        normed(16),
        conv(rank, 16, 16, 3, stride=stride, padding=1, groups=16, bias=False),
        normed(16),
        conv(rank, 16, 4, 1, bias=False),
        norm(rank, 4),
    )
    return Skip(*body) if stride == 1 else nn.Sequential(*body)


@dataclass(frozen=True)
class Block:
    """A block: how it is built, its input channels, for which ranks, and what the border rule leaves of it.

    `border`: "free" (one convolution), "bias" (one, and the bias depends on the position).
    """

    build: Callable[[int], Any]
    channels: int
    border: str = "free"
    ranks: tuple[int, ...] = (1, 2, 3)


BLOCKS: dict[str, Block] = {
    "RepVGG": Block(repvgg, 6),
    "RepVGG stride 2": Block(repvgg_down, 5),
    "ACNet": Block(acnet, 4),
    "DBB": Block(partial(dbb, middle=NormAndPad), 4),
    "DBB stride 2": Block(partial(dbb, middle=NormAndPad, stride=2), 4),
    "DBB padded before the norm": Block(partial(dbb, middle=PadThenNorm), 4),
    "DBB without its padding layer": Block(partial(dbb, middle=None), 4, "bias"),
    "DBB without its padding layer, stride 2": Block(partial(dbb, middle=None, stride=2), 4, "bias", (1, 2)),
    "DBB multi-scale": Block(dbb_multi_scale, 4),
    "MobileOne depthwise": Block(partial(mobileone, depthwise=True), 6),
    "MobileOne pointwise": Block(partial(mobileone, depthwise=False), 6),
    "SESR": Block(sesr, 5),
    "ECBSR": Block(ecbsr, 4, ranks=(2,)),
    "ExpandNet 3": Block(expandnet3, 4),
    "ExpandNet 3, stride 2": Block(partial(expandnet3, stride=2), 4),
    "ExpandNet 5": Block(expandnet5, 3),
    "ExpandNet 5, stride 2": Block(partial(expandnet5, stride=2), 3),
    "OREPA": Block(Orepa, 4),
    "RepLKNet": Block(replknet, 6),
    "FEAN": Block(partial(fean, bias=True), 6, "bias"),
    "FEAN without bias": Block(partial(fean, bias=False), 6),
    "BSConv-U": Block(bsconv_u, 5),
    "BSConv-S": Block(bsconv_s, 8),
    "separable": Block(partial(separable, bias=False), 4, ranks=(2, 3)),
    "separable with bias": Block(partial(separable, bias=True), 4, "bias", (2, 3)),
    "separable, stride 2": Block(partial(separable, bias=False, stride=2), 4, ranks=(2,)),
    "MBConv": Block(mbconv, 4, "bias"),
    "MBConv stride 2": Block(partial(mbconv, stride=2), 4, "bias"),
    "MBConv without shifts": Block(partial(mbconv, shift=False), 4),
}


def randomise(module: Any) -> Any:
    """Batch-norm statistics and gains as training leaves them; eval mode."""
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.3, 3.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


def build(name: str, rank: int, seed: int = 0) -> Any:
    """The block with random weights and statistics, in eval mode."""
    torch.manual_seed(seed)
    return randomise(BLOCKS[name].build(rank))


def size(rank: int) -> tuple[int, ...]:
    """A spatial size with more positions than border classes, uneven on purpose."""
    return {1: (17,), 2: (12, 15), 3: (9, 8, 10)}[rank]
