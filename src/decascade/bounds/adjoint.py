"""Linear operations run backwards on a window: the coefficients on the inputs from those on the output.

Coefficients are arrays (C, *window, R), one column per row of the linear form that is traced back.  A *window* is one
half-open range of positions per spatial axis, so that a neuron's form never touches more than its receptive field.
They keep their precision: float64 for bounds, float32 where a gradient is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from decascade.algebra.conv import Conv, ConvTranspose
from decascade.bounds.forward import column, convolve, pool_count, taps
from decascade.errors import CannotInterpret
from decascade.ir.interpret import evaluate
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import is_linear, moves_values
from decascade.typing import Reals

Window = tuple[tuple[int, int], ...]
Size = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Form:
    """Coefficients on the positions of `window` of one tensor; (C, *window, R)."""

    coefficients: Reals
    window: Window

    @property
    def where(self) -> tuple[slice, ...]:
        """Channels and positions as an index of a (C, *S) array."""
        return (slice(None), *(slice(a, b) for a, b in self.window))


def whole(size: Size) -> Window:
    return tuple((0, n) for n in size)


def merged(a: Form, b: Form) -> Form:
    """The sum, on the hull of both windows."""
    if a.window == b.window:
        return Form(a.coefficients + b.coefficients, a.window)
    hull = tuple((min(p, r), max(q, s)) for (p, q), (r, s) in zip(a.window, b.window, strict=True))
    shape = (a.coefficients.shape[0], *(q - p for p, q in hull), a.coefficients.shape[-1])
    total = np.zeros(shape, a.coefficients.dtype)
    for form in (a, b):
        at = tuple(slice(p - o, q - o) for (p, q), (o, _) in zip(form.window, hull, strict=True))
        total[(slice(None), *at)] += form.coefficients
    return Form(total, hull)


def clipped(coefficients: Reals, starts: Sequence[int], size: Size) -> Form:
    """Coefficients from `starts` on, without those that lie off a map of this size (it is zero there)."""
    window, cut = list[tuple[int, int]](), list[slice]()
    for start, n, length in zip(starts, size, coefficients.shape[1:-1], strict=True):
        a = min(max(start, 0), n)
        b = max(min(start + length, n), a)
        window.append((a, b))
        cut.append(slice(a - start, b - start))
    return Form(coefficients[(slice(None), *cut)], tuple(window))


def pull(op: Op, form: Form, sizes: Sequence[tuple[int, ...]]) -> tuple[list[Form], Reals | float]:
    """The forms on the inputs of a linear operation, whose shapes (C, *S) are `sizes`, and the constants (R,).

    Raises:
        CannotInterpret: not a linear operation.
    """
    rule = PULL.get(op)
    if rule is None:
        raise CannotInterpret(f"{type(op).__name__} is not linear")
    return rule(op, form, sizes)


def can_pull(op: Op) -> bool:
    """Whether the operation is linear and known here, so that `pull` traces a form through it exactly."""
    return is_linear(op) and op in PULL


Sizes = Sequence[tuple[int, ...]]
Pulled = tuple[list[Form], Reals | float]


def _through_conv(op: Conv, form: Form, sizes: Sizes) -> Pulled:
    return [_conv(op, form, sizes[0][1:])], _constant(op.bias64, form.coefficients)


def _through_transpose(op: ConvTranspose, form: Form, sizes: Sizes) -> Pulled:
    return [_transpose(op, form, sizes[0][1:])], _constant(op.bias64, form.coefficients)


def _through_affine(op: Affine, form: Form, _: Sizes) -> Pulled:
    a = form.coefficients
    return [Form(a * column(op.scale.astype(a.dtype), a.ndim), form.window)], _constant(op.shift, a)


def _through_bias_map(op: BiasMap, form: Form, sizes: Sizes) -> Pulled:
    a = form.coefficients
    values = np.broadcast_to(op.values.astype(a.dtype), sizes[0])[form.where]
    return [form], np.tensordot(values, a, values.ndim)


def _through_add(op: Add, form: Form, sizes: Sizes) -> Pulled:
    signs = op.signs or (1,) * len(sizes)
    return [form if s > 0 else Form(-form.coefficients, form.window) for s in signs], 0.0


def _through_identity(_: Identity, form: Form, __: Sizes) -> Pulled:
    return [form], 0.0


def _through_global_pool(op: GlobalPool, form: Form, sizes: Sizes) -> Pulled:
    a, size = form.coefficients, sizes[0][1:]
    if op.kind != "avg":
        raise CannotInterpret("a maximum is not linear")
    spread = a if op.keepdims else a.reshape(a.shape[0], *(1,) * len(size), a.shape[-1])
    full = np.broadcast_to(spread / prod(size), (a.shape[0], *size, a.shape[-1]))
    return [Form(np.array(full), whole(size))], 0.0


def _constant(values: Reals, a: Reals) -> Reals:
    return values.astype(a.dtype) @ a.sum(axis=tuple(range(1, a.ndim - 1)))


def _conv(op: Conv, form: Form, size: Size) -> Form:
    a = form.coefficients
    if op.groups == 1 and all(s == 1 for s in op.stride):
        return _turned(op, form, size)
    count, rows = a.shape[1:-1], a.shape[-1]
    length = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(count, op.stride, op.kernel, op.dilation, strict=True)]
    starts = [w[0] * s - p[0] for w, s, p in zip(form.window, op.stride, op.padding, strict=True)]
    buffer = np.zeros((op.groups, op.in_channels // op.groups, *length, rows), a.dtype)
    weight = op.weight.astype(a.dtype).reshape(op.groups, -1, op.weight.shape[1], *op.kernel)
    flat = a.reshape(op.groups, weight.shape[1], prod(count) * rows)
    for tap, at in taps(op.kernel, op.stride, op.dilation, count):
        factor = np.ascontiguousarray(weight[(..., *tap)].swapaxes(1, 2))
        part = factor * flat if flat.shape[1] == 1 else factor @ flat
        buffer[(slice(None), slice(None), *at)] += part.reshape(op.groups, weight.shape[2], *count, rows)
    return clipped(buffer.reshape(op.in_channels, *length, rows), starts, size)


def _turned(op: Conv, form: Form, size: Size) -> Form:
    """With stride 1 the adjoint is a convolution with the kernel turned round and its channel axes swapped."""
    window, pads = list[tuple[int, int]](), list[tuple[int, int]]()
    for (o, e), n, k, d, (p, _) in zip(form.window, size, op.kernel, op.dilation, op.padding, strict=True):
        reach = (k - 1) * d
        first = min(max(o - p, 0), n)
        last = max(min(e - 1 - p + reach + 1, n), first)
        window.append((first, last))
        pads.append((reach - (first - (o - p)), reach - ((e - p + reach) - last)))
    if any(q == p for p, q in window):
        size = tuple(q - p for p, q in window)
        return Form(np.zeros((op.in_channels, *size, form.coefficients.shape[-1]), form.coefficients.dtype), tuple(window))
    weight = np.flip(op.weight.astype(form.coefficients.dtype), tuple(range(2, op.weight.ndim))).swapaxes(0, 1)
    turned = Conv(np.ascontiguousarray(weight), None, 1, op.dilation, pads)
    return Form(convolve(turned, form.coefficients), tuple(window))


def _transpose(op: ConvTranspose, form: Form, size: Size) -> Form:
    a, rows = form.coefficients, form.coefficients.shape[-1]
    window, pads = list[tuple[int, int]](), list[tuple[int, int]]()
    for (o, e), n, s, k, d, (p, _) in zip(form.window, size, op.stride, op.kernel, op.dilation, op.padding, strict=True):
        first = min(max(-((-(o + p - (k - 1) * d)) // s), 0), n)
        last = max(min((e - 1 + p) // s + 1, n), first)
        window.append((first, last))
        pads.append((o - (first * s - p), (last - 1) * s + (k - 1) * d - p + 1 - e))
    cut = (slice(None), *(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(a.shape[1:-1], pads, strict=True)))
    padded = np.pad(a[cut], [(0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in pads), (0, 0)])
    count = [q - p for p, q in window]
    weight = op.weight.astype(a.dtype).reshape(op.groups, -1, op.weight.shape[1], *op.kernel)
    grouped = padded.reshape(op.groups, weight.shape[2], *padded.shape[1:])
    out = np.zeros((op.groups, weight.shape[1], prod(count) * rows), a.dtype)
    for tap, at in taps(op.kernel, op.stride, op.dilation, count):
        seen = grouped[(slice(None), slice(None), *at)].reshape(op.groups, grouped.shape[1], prod(count) * rows)
        out += weight[(..., *tap)] @ seen
    return Form(out.reshape(op.in_channels, *count, rows), tuple(window))


def _dense(op: Dense, form: Form, sizes: Sizes) -> Pulled:
    a, size = form.coefficients, sizes[0][1:]
    weight = op.layer.weight.astype(a.dtype)
    if a.ndim == 2:
        return [Form(weight.T @ a, ())], op.layer.bias64 @ a
    start, stop = form.window[-1]
    back = weight[start:stop].T @ a
    bias = op.layer.bias64[start:stop] @ a.sum(axis=tuple(range(a.ndim - 2)))
    return [Form(back, (*form.window[:-1], (0, size[-1])))], bias


def _pool(op: Pool, form: Form, sizes: Sizes) -> Pulled:
    a, size = form.coefficients, sizes[0][1:]
    if op.kind != "avg":
        raise CannotInterpret("a maximum is not linear")
    at = tuple(slice(p, q) for p, q in form.window)
    a = a / pool_count(op, size)[at][None, ..., None].astype(a.dtype)
    count, rows = a.shape[1:-1], a.shape[-1]
    length = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(count, op.stride, op.kernel, op.dilation, strict=True)]
    buffer = np.zeros((a.shape[0], *length, rows), a.dtype)
    for _, window in taps(op.kernel, op.stride, op.dilation, count):
        buffer[(slice(None), *window)] += a
    starts = [w[0] * s - p[0] for w, s, p in zip(form.window, op.stride, op.padding, strict=True)]
    return [clipped(buffer, starts, size)], 0.0


def _flatten(op: Flatten, form: Form, sizes: Sizes) -> Pulled:
    a, size = form.coefficients, sizes[0][1:]
    order = sizes[0] if op.order == "channels_first" else (*size, sizes[0][0])
    back = a.reshape(*order, a.shape[-1])
    return [Form(back if op.order == "channels_first" else np.moveaxis(back, -2, 0), whole(size))], 0.0


def _select(op: Select, form: Form, sizes: Sizes) -> Pulled:
    back = np.zeros((sizes[0][0], *form.coefficients.shape[1:]), form.coefficients.dtype)
    np.add.at(back, op.indices, form.coefficients)
    return [Form(back, form.window)], 0.0


def _slice(op: Slice, form: Form, _: Sizes) -> Pulled:
    window = tuple((p + op.start, q + op.start) if i == op.axis - 2 else (p, q) for i, (p, q) in enumerate(form.window))
    return [Form(form.coefficients, window)], 0.0


def _scattered(op: Op, form: Form, sizes: Sizes) -> Pulled:
    """Any operation that only moves values: it is run on numbered entries, and each coefficient goes back to the entry that
    its own came from."""
    counts = [prod(size) for size in sizes]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    numbered = [np.arange(s, s + n).reshape(1, *size) for s, n, size in zip(starts, counts, sizes, strict=True)]
    source = evaluate(op, numbered)[0][0][form.where]
    rows = form.coefficients.shape[-1]
    back = np.zeros((sum(counts), rows), form.coefficients.dtype)
    np.add.at(back, source.reshape(-1), form.coefficients.reshape(-1, rows))
    parts = np.split(back, starts[1:])
    return [Form(part.reshape(*size, rows), whole(size[1:])) for part, size in zip(parts, sizes, strict=True)], 0.0


def _upsample(op: Upsample, form: Form, _: Sizes) -> Pulled:
    a, window = form.coefficients, list[tuple[int, int]]()
    for axis, (f, (p, q)) in enumerate(zip(op.factor, form.window, strict=True), start=1):
        owner = np.arange(p, q) // f
        starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1))
        a = np.add.reduceat(a, starts, axis) if len(owner) else a
        window.append((p // f, (q - 1) // f + 1) if q > p else (0, 0))
    return [Form(a, tuple(window))], 0.0


def _pad(op: Pad, form: Form, sizes: Sizes) -> Pulled:
    a, before = form.coefficients, op.channels[0]
    total = a.sum(axis=tuple(range(a.ndim - 1)))
    starts = [w[0] - p[0] for w, p in zip(form.window, op.pads, strict=True)]
    kept = a[max(before, 0) : a.shape[0] - max(op.channels[1], 0)]
    inner = clipped(kept, starts, sizes[0][1:])
    inside = inner.coefficients.sum(axis=tuple(range(a.ndim - 1)))
    if before < 0 or op.channels[1] < 0:
        lost = [(max(-before, 0), max(-op.channels[1], 0))] + [(0, 0)] * (a.ndim - 1)
        inner = Form(np.pad(inner.coefficients, lost), inner.window)
    return [inner], op.value * (total - inside)


def _concat(op: Concat, form: Form, sizes: Sizes) -> Pulled:
    a, found, start = form.coefficients, list[Form](), 0
    for size in sizes:
        if op.axis == 1:
            found.append(Form(a[start : start + size[0]], form.window))
        else:
            i, n = op.axis - 2, size[op.axis - 1]
            p, q = form.window[i]
            lo, hi = min(max(p, start), start + n), max(min(q, start + n), start)
            hi = max(hi, lo)
            cut = [slice(None)] * a.ndim
            cut[op.axis - 1] = slice(lo - p, hi - p) if hi > lo else slice(0, 0)
            window = tuple((lo - start, hi - start) if k == i else w for k, w in enumerate(form.window))
            found.append(Form(a[tuple(cut)], window))
        start += size[op.axis - 1]
    return found, 0.0


Pull = Callable[[Any, Form, Sizes], Pulled]


def _by_traits(op: Op) -> Pull | None:
    return _scattered if moves_values(op) else None


PULL: Table[Pull] = Table(
    "linear forms traced back",
    {
        Conv: _through_conv, ConvTranspose: _through_transpose, Dense: _dense, Affine: _through_affine,
        BiasMap: _through_bias_map, Add: _through_add, Identity: _through_identity, Pool: _pool,
        GlobalPool: _through_global_pool, Flatten: _flatten, Select: _select, Slice: _slice, Upsample: _upsample, Pad: _pad,
        Concat: _concat,
    },
    {**dict.fromkeys((Activation, Product), "not linear"), Foreign: "nothing is known of it"},
    _by_traits,
)
"""A form on what has no rule is bounded by the values that the tensor may take."""
