"""Readers: one per operation of PyTorch, from its arguments to an operation of the graph.

Each takes the context, then the arguments as torch names and orders them (those of `torch.nn.functional` and of
`torch.ops.aten` are the same unless said).  None means: not understood in this form, carried through as `Foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.formats.batch_norm import batch_norm as normalisation
from decascade.formats.torch.common import load, to_numpy
from decascade.formats.torch.values import Sizes, Values, evaluate, trials
from decascade.ir.graph import Shape
from decascade.ir.ops import Activation, Add, Concat, Dense, Identity, Op, Pad, Select, Upsample

Reading = tuple[Op, tuple[Any, ...]]
"""An operation and the fx nodes of its inputs."""


@dataclass
class Context:
    """What a reader may ask: constants, shapes.  `layer`: the name of what is read, for messages."""

    values: Values
    shape: Callable[[Any], Shape | None]
    layer: str

    def array(self, value: Any) -> NDArray[Any] | None:
        """A constant floating tensor as an array, None for None.

        Raises:
            NotConstantError: it depends on the model's inputs.
        """
        constant = self.values.constant(value)
        if constant is None:
            return None
        if isinstance(constant, (int, float)):
            return np.asarray(constant, dtype=np.float64)
        tensor = constant if isinstance(constant, load().Tensor) else load().tensor(constant)
        if tensor.is_quantized or tensor.is_complex() or tensor.layout != load().strided:
            raise TypeError("not a plain tensor")
        return to_numpy(tensor)

    def number(self, value: Any) -> Any:
        """A number that the code computes from constants or known sizes (`w.shape[0]`) as that number; else as it is."""
        kind = self.values.kinds.get(value) if hasattr(value, "op") else None
        if kind == "constant":
            constant = self.values.constant(value)
            return value if isinstance(constant, load().Tensor) else constant
        if kind == "size":
            first, second = (self.at(value, sizes) for sizes in trials())
            return first if first is not None and first == second else value
        return value

    def at(self, value: Any, sizes: Sizes) -> Any:
        """What a computed size is where symbols stand for these numbers; None where that cannot be told."""
        torch = load()
        try:
            known = {t: torch.empty(sizes.concrete(self.shape(t)), device="meta") for t in self.values.tensors(value)}
            return evaluate(value, known, self.values.module)
        except Exception:  # not computed from sizes alone
            return None

    def rank(self, node: Any) -> int | None:
        """Number of axes, batch and channels included."""
        shape = self.shape(node)
        return None if shape is None else len(shape)

    def channels(self, node: Any) -> int | None:
        """Number of channels where it is known."""
        shape = self.shape(node)
        return shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else None


def per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One number, or one for all axes, or one per axis → one per axis."""
    values = (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    return values * rank if len(values) == 1 else values


def spread(value: Any, rank: int) -> list[Any]:
    """The items of a tuple or list; anything else once per axis."""
    return list(cast(Sequence[Any], value)) if isinstance(value, (tuple, list)) else [value] * rank


def conv(
    ctx: Context, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Reading | None:
    w = ctx.array(weight)
    assert w is not None
    rank = w.ndim - 2
    if padding == "valid":
        padding = 0
    elif padding == "same":
        reach = [d * (k - 1) for d, k in zip(per_axis(dilation, rank), w.shape[2:], strict=True)]
        pads = [(n // 2, n - n // 2) for n in reach]  # torch puts the odd one at the end
        return Conv(w, ctx.array(bias), per_axis(stride, rank), per_axis(dilation, rank), pads, groups), (x,)
    if ctx.rank(x) not in (None, rank + 2):  # an image without a batch axis
        return None
    return Conv(w, ctx.array(bias), per_axis(stride, rank), per_axis(dilation, rank), per_axis(padding, rank), groups), (x,)


def conv_transpose(
    ctx: Context,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Reading | None:
    w = ctx.array(weight)
    assert w is not None
    rank = w.ndim - 2
    if ctx.rank(x) not in (None, rank + 2):
        return None
    cut = zip(per_axis(padding, rank), per_axis(output_padding, rank), strict=True)
    pads = [(p, p - more) for p, more in cut]
    return ConvTranspose(w, ctx.array(bias), per_axis(stride, rank), per_axis(dilation, rank), pads, groups), (x,)


def convolution(
    ctx: Context,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    more: Any,
    groups: int,
) -> Reading | None:
    """aten's one form for all."""
    if transposed:
        return conv_transpose(ctx, x, weight, bias, stride, padding, more, groups, dilation)
    return conv(ctx, x, weight, bias, stride, padding, dilation, groups)


def linear(ctx: Context, x: Any, weight: Any, bias: Any = None) -> Reading | None:
    w = ctx.array(weight)
    return None if w is None or w.ndim != 2 else (Dense(Conv(w, ctx.array(bias))), (x,))


def addmm(ctx: Context, bias: Any, x: Any, matrix: Any, beta: float = 1, alpha: float = 1) -> Reading | None:
    w, b = ctx.array(matrix), ctx.array(bias)
    if w is None or b is None or (beta, alpha) != (1, 1) or b.ndim > 1 or not ctx.values.is_tensor(x):
        return None
    return Dense(Conv(w.T, np.broadcast_to(b, w.shape[1:]))), (x,)


def matmul(ctx: Context, x: Any, matrix: Any) -> Reading | None:
    w = ctx.array(matrix)
    return None if w is None or w.ndim != 2 or not ctx.values.is_tensor(x) else (Dense(Conv(w.T)), (x,))


def batch_norm(
    ctx: Context,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
    cudnn: bool = False,
) -> Reading | None:
    """In the order of aten; the normalisation with stored statistics, in float64.

    Raises:
        FormatError: statistics that no output can be computed from.
    """
    mu, var = ctx.array(mean), ctx.array(variance)
    if training or mu is None or var is None or ctx.rank(x) == 1:
        return None
    return normalisation(ctx.layer, mu, var, eps, ctx.array(weight), ctx.array(bias)), (x,)


def functional_batch_norm(
    ctx: Context,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Reading | None:
    return batch_norm(ctx, x, weight, bias, running_mean, running_var, training, momentum, eps)


def native_batch_norm(
    ctx: Context, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: Any, eps: float
) -> Reading | None:
    """`_native_batch_norm_legit_no_training`; its first result."""
    return batch_norm(ctx, x, weight, bias, mean, variance, False, momentum, eps)


def identity(ctx: Context, x: Any, *_: Any, **__: Any) -> Reading | None:
    return Identity(), (x,)


def dropout(
    ctx: Context, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool | None = None
) -> Reading | None:
    return (Identity(), (x,)) if not (training if train is None else train) or p == 0 else None


def concat(ctx: Context, tensors: Any, dim: int = 0, axis: int | None = None) -> Reading | None:
    at = dim if axis is None else axis
    parts = tuple(tensors)
    if not all(ctx.values.is_tensor(part) for part in parts):
        return None
    ranks = {ctx.rank(part) for part in parts} - {None}
    if at < 0:
        if len(ranks) != 1:
            return None
        at += next(rank for rank in ranks if rank is not None)
    return (Concat(at), parts) if at >= 1 else None


def pad(ctx: Context, x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Reading | None:
    rank = ctx.rank(x)
    amounts = ctx.values.constant(list(pad) if isinstance(pad, (list, tuple)) else pad)
    if mode != "constant" or rank is None or rank < 3:
        return None
    pads = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    pads = [(0, 0)] * (rank - 1 - len(pads)) + pads
    if len(pads) != rank - 1:  # the batch axis is padded too
        return None
    return Pad(tuple((int(lo), int(hi)) for lo, hi in pads[1:]), float(value or 0), pads[0]), (x,)


def constant_pad(ctx: Context, x: Any, amounts: Sequence[int], value: float = 0) -> Reading | None:
    return pad(ctx, x, amounts, "constant", value)


def interpolate(
    ctx: Context, x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> Reading | None:
    shape = ctx.shape(x)
    if mode not in ("nearest", "nearest-exact") or shape is None or len(shape) < 3:
        return None
    rank = len(shape) - 2
    if scale_factor is not None:
        factors = [float(v) for v in spread(scale_factor, rank)]
    else:
        wanted = per_axis(ctx.values.constant(size), rank)
        if not all(isinstance(n, int) for n in shape[2:]):
            return None
        factors = [w / n for w, n in zip(wanted, shape[2:], strict=True) if isinstance(n, int)]
    return (Upsample(tuple(int(f) for f in factors)), (x,)) if all(f == int(f) and f >= 1 for f in factors) else None


def upsample_nearest(ctx: Context, x: Any, size: Any, scales: Any = None, *more: Any) -> Reading | None:
    """aten's forms: (input, size, scale_h, scale_w) and, as "vec", (input, size, scales)."""
    factors = spread(scales, 1) + list(more)
    return interpolate(ctx, x, size) if None in factors else interpolate(ctx, x, None, factors)


def channel_shuffle(ctx: Context, x: Any, groups: int) -> Reading | None:
    count = ctx.channels(x)
    if count is None or count % groups:
        return None
    return Select(np.arange(count, dtype=np.int64).reshape(groups, -1).T.ravel()), (x,)


def activation(kind: str, *names: str, **defaults: float) -> Callable[..., Reading | None]:
    """A reader for an activation whose numbers are called `names`, in the order of torch's arguments."""

    def read(ctx: Context, x: Any, *args: Any, **kwargs: Any) -> Reading | None:
        given = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
        numbers = [ctx.values.constant(given.get(name, defaults.get(name))) for name in names]
        return Activation(kind, tuple(float(number) for number in numbers)), (x,)

    return read


def clamp(ctx: Context, x: Any, low: Any = None, high: Any = None, **named: Any) -> Reading | None:
    """torch calls the bounds min and max."""
    low, high = ctx.values.constant(named.get("min", low)), ctx.values.constant(named.get("max", high))
    if any(isinstance(bound, load().Tensor) and bound.numel() != 1 for bound in (low, high)):
        return None
    lo, hi = -inf if low is None else float(low), inf if high is None else float(high)
    return Activation("relu") if (lo, hi) == (0, inf) else Activation("clip", (lo, hi)), (x,)


def relu6(ctx: Context, x: Any, *_: Any, **__: Any) -> Reading | None:
    return clamp(ctx, x, 0, 6)


def hardtanh(ctx: Context, x: Any, min_val: float = -1.0, max_val: float = 1.0, *_: Any, **__: Any) -> Reading | None:
    return clamp(ctx, x, min_val, max_val)


def hardsigmoid(ctx: Context, x: Any, *_: Any, **__: Any) -> Reading | None:
    return Activation("hard_sigmoid", (1 / 6, 0.5)), (x,)


def rrelu(ctx: Context, x: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any) -> Reading | None:
    return None if training else (Activation("leaky_relu", ((lower + upper) / 2,)), (x,))


def bound_below(ctx: Context, x: Any, other: Any) -> Reading | None:
    return clamp(ctx, x, other) if ctx.values.is_tensor(x) else clamp(ctx, other, x)


def bound_above(ctx: Context, x: Any, other: Any) -> Reading | None:
    return clamp(ctx, x, None, other) if ctx.values.is_tensor(x) else clamp(ctx, other, None, x)


def prelu(ctx: Context, x: Any, weight: Any) -> Reading | None:
    slope = ctx.array(weight)
    if slope is None:
        return None
    if slope.size == 1:
        return Activation("leaky_relu", (float(slope.ravel()[0]),)), (x,)
    return Activation("prelu", slope=slope.ravel()), (x,)


def gelu(ctx: Context, x: Any, approximate: str = "none") -> Reading | None:
    return Activation("gelu" if approximate == "none" else "gelu_tanh"), (x,)


def softplus(ctx: Context, x: Any, beta: float = 1, threshold: float = 20) -> Reading | None:
    return (Activation("softplus"), (x,)) if beta == 1 and threshold >= 20 else None


def softmax(ctx: Context, x: Any, dim: Any = None, *rest: Any, **__: Any) -> Reading | None:
    if dim is None or any(isinstance(value, load().dtype) for value in rest):
        return None
    return Activation("softmax", (float(dim),)), (x,)


def softmax_of_half(ctx: Context, x: Any, dim: Any, half: bool) -> Reading | None:
    """aten's `_softmax`."""
    return None if half else softmax(ctx, x, dim)


def elu(ctx: Context, x: Any, alpha: float = 1.0, scale: float = 1, input_scale: float = 1) -> Reading | None:
    return (Activation("elu", (float(alpha),)), (x,)) if (scale, input_scale) == (1, 1) else None


def plus(ctx: Context, x: Any, y: Any) -> Reading | None:
    """The sum of two tensors of one shape."""
    a, b = ctx.shape(x), ctx.shape(y)
    if a is None or b is None or len(a) != len(b):
        return None
    # sizes that are numbers must agree; two symbols stand for one size, else one of the two would have to be 1
    known = [(m, n) for m, n in zip(a[1:], b[1:], strict=True) if isinstance(m, int) or isinstance(n, int)]
    return (Add(), (x, y)) if all(m == n for m, n in known) else None
