"""A linear region as a value: convolutions, sums, stacks and picks between named maps, one map in, one out.

Pure algebra: no layer names, no frameworks.  `border.py` finds where its maps end; `pull_back` turns it into kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np
from numpy.typing import NDArray

from decascade.algebra.affine import flatten_dense, identity
from decascade.algebra.axis import Axis, compose_axis, join_axis
from decascade.algebra.compose import compose, most_groups, regroup, response_to_constant, with_groups
from decascade.algebra.conv import Conv
from decascade.algebra.parallel import add, negate, pick_inputs
from decascade.errors import AlgebraError


@dataclass(frozen=True)
class Sum:
    """Σ sign·input."""

    signs: tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """Concatenation along the channels."""


@dataclass(frozen=True, eq=False)
class Pick:
    """y[:, j] = x[:, indices[j]]."""

    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scale:
    """A factor per position, the product of one vector per axis (an average that does not count its padding)."""

    factors: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class Flat:
    """(C, *S) → C·ΠS channels over no axes."""

    channels_last: bool


LinearOp = Conv | Sum | Stack | Pick | Scale | Flat
Window = tuple[tuple[int, int], ...]
"""Per axis the first and last tap that is on the map, counted from stride × output position."""


@dataclass(frozen=True, eq=False)
class Step:
    op: LinearOp
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order.  `channels` and `size` per map; a size of None is not known before the model runs.

    Raises (on first use of `reach`):
        AlgebraError: paths from one map to the output whose strides differ.
    """

    steps: tuple[Step, ...]
    entry: str
    exit: str
    channels: Mapping[str, int]
    size: Mapping[str, tuple[int | None, ...]]

    @property
    def rank(self) -> int:
        return len(self.size[self.entry])

    @cached_property
    def reach(self) -> Mapping[str, tuple[Axis, ...]]:
        """Per map, the taps through which one output sees it on an unbounded map."""
        found: dict[str, tuple[Axis, ...]] = {self.exit: (Axis(),) * len(self.size[self.exit])}
        for step in reversed(self.steps):
            for name in step.inputs:
                axes = _seen(step.op, found[step.output], self.size[name])
                found[name] = _join(found[name], axes, name) if name in found else axes
        return found

    @cached_property
    def groups(self) -> int:
        """Groups that the composed kernel is sure to have."""
        found: dict[str, int] = {self.exit: 0}
        for step in reversed(self.steps):
            for name in step.inputs:
                found[name] = gcd(found.get(name, 0), _groups(step.op, found[step.output]))
        return found[self.entry] or self.channels[self.entry]

    @cached_property
    def first_reader(self) -> Mapping[str, Step]:
        """Per map the first step that reads it: in a backward pass the last one to add to it."""
        found: dict[str, Step] = {}
        for step in self.steps:
            for name in step.inputs:
                found.setdefault(name, step)
        return found

    @cached_property
    def has_constant(self) -> Mapping[str, bool]:
        """Per map, whether a bias reaches it."""
        found = {self.entry: False}
        for step in self.steps:
            own = isinstance(step.op, Conv) and step.op.has_bias
            found[step.output] = own or any(found[n] for n in step.inputs)
        return found


def chain(layers: Sequence[Conv], size: Sequence[int]) -> Program:
    """The program of convolutions in sequence on a map of spatial size `size`.

    `find_border(chain(layers, size))` gives the border classes and the exact kernel of each.

    Raises:
        AlgebraError: layers whose channels do not fit, or that leave nothing of the map.
    """
    steps, channels, sizes = list[Step](), {"0": layers[0].in_channels}, {"0": tuple(size)}
    for i, layer in enumerate(layers):
        if layer.in_channels != channels[str(i)] or layer.rank != len(size):
            raise AlgebraError(f"layer {i} takes {layer.in_channels} channels on {layer.rank} axes, "
                               f"it is given {channels[str(i)]} on {len(size)}")
        out = layer.output_size(sizes[str(i)])
        if any(n < 1 for n in out):
            raise AlgebraError(f"layer {i} leaves nothing of a map of size {sizes[str(i)]}")
        steps.append(Step(layer, (str(i),), str(i + 1)))
        channels[str(i + 1)], sizes[str(i + 1)] = layer.out_channels, out
    return Program(tuple(steps), "0", str(len(layers)), channels, sizes)


def _seen(op: LinearOp, axes: tuple[Axis, ...], size: tuple[int | None, ...]) -> tuple[Axis, ...]:
    if isinstance(op, Conv):
        return tuple(compose_axis(a, b) for a, b in zip(axes, op.axes, strict=True))
    if isinstance(op, Flat):
        return tuple(Axis(n or 1) for n in size)
    return axes


def _groups(op: LinearOp, groups: int) -> int:
    """0 stands for the identity, which has as many as its channels; so it is neutral in gcd."""
    if isinstance(op, Conv):
        return gcd(groups, op.groups)
    return groups if isinstance(op, (Sum, Scale)) else 1


def _join(a: tuple[Axis, ...], b: tuple[Axis, ...], name: str) -> tuple[Axis, ...]:
    if any(x.stride != y.stride for x, y in zip(a, b, strict=True)):
        raise AlgebraError(f"two paths from {name} to the output have different strides")
    return tuple(join_axis(x, y) for x, y in zip(a, b, strict=True))


def pull_back(program: Program, windows: Mapping[str, Window], position: tuple[int, ...] | None = None) -> Conv:
    """The kernel through which an output sees the entry, when every map between ends where `windows` says.

    Runs backward from the output: R[u] = Σ over the readers of u of R[reader]∘reader, each R[u] cropped to the taps
    that are on the map of u; the bias is Σ R[u]·bias(u).  Maps without a window are unbounded.
    `position` (an output position of the class) is needed where a step scales by position.
    """
    bias = np.zeros(program.channels[program.exit])
    result: Conv | _Nothing | None = _NOTHING
    for step, operator in backward(program, windows, position):
        if step is None:
            result = operator
        elif isinstance(step.op, Conv) and step.op.has_bias:
            bias += step.op.bias64 if operator is None else response_to_constant(operator, step.op.bias64)
    if isinstance(result, _Nothing):
        return _zero(program, bias)
    kernel = result or identity(program.channels[program.entry], program.rank)
    return _tidy(kernel, bias, program)


def backward(
    program: Program, windows: Mapping[str, Window], position: tuple[int, ...] | None = None
) -> Iterator[tuple[Step | None, Conv | None]]:
    """Each step, last first, with what the output sees of it (None: itself); in the end None with the entry's."""
    seen: dict[str, Conv | None] = {program.exit: None}
    for step in reversed(program.steps):
        operator = seen.pop(step.output, _NOTHING)
        if operator is not None and not isinstance(operator, _Nothing) and step.output in windows:
            operator = crop(operator, windows[step.output]) or _NOTHING
        if isinstance(operator, _Nothing):
            continue
        yield step, operator
        for name, part in _through(step, operator, program, position):
            seen[name] = _sum(seen[name], part, program, name) if name in seen else part
    if program.entry in seen:
        yield None, seen[program.entry]


class _Nothing:
    """No path leads here: everything was cropped."""


_NOTHING = _Nothing()


def _through(
    step: Step, operator: Conv | None, program: Program, position: tuple[int, ...] | None
) -> list[tuple[str, Conv | None]]:
    """What the inputs of a step are seen through, given what its output is seen through (None: the identity)."""
    op, (name, *_) = step.op, step.inputs
    if isinstance(op, Sum):
        return [(n, operator if sign > 0 else negate(operator or _identity(program, step.output)))
                for n, sign in zip(step.inputs, op.signs, strict=True)]
    if isinstance(op, Conv):
        plain = op if op.bias is None else Conv(op.weight, None, op.stride, op.dilation, op.padding, op.groups)
        return [(name, plain if operator is None else compose(operator, plain))]
    operator = operator or _identity(program, step.output)
    if isinstance(op, Pick):
        return [(name, pick_inputs(operator, op.indices, program.channels[name]))]
    if isinstance(op, Scale):
        return [(name, _scaled(operator, op, position))]
    if isinstance(op, Flat):
        size = tuple(n or 1 for n in program.size[name])
        return [(name, flatten_dense(operator, program.channels[name], size, op.channels_last))]
    weight, start, parts = regroup(operator.weight, operator.groups, 1), 0, list[tuple[str, Conv | None]]()
    for n in step.inputs:
        end = start + program.channels[n]
        parts.append((n, Conv(weight[:, start:end], None, operator.stride, operator.dilation, operator.padding)))
        start = end
    return parts


def _identity(program: Program, name: str) -> Conv:
    return identity(program.channels[name], len(program.size[name]))


def _sum(a: Conv | None, b: Conv | None, program: Program, name: str) -> Conv:
    return add(a or _identity(program, name), b or _identity(program, name))


def _scaled(operator: Conv, op: Scale, position: tuple[int, ...] | None) -> Conv:
    """Every tap times the factor at the position that it meets; taps off the map were cropped before."""
    weight = operator.weight.astype(np.float64)
    for axis, (taps, factors) in enumerate(zip(operator.axes, op.factors, strict=True)):
        at = taps.first(position[axis] if position else 0) + taps.step * np.arange(taps.taps)
        shape = [1] * weight.ndim
        shape[2 + axis] = -1
        weight = weight * factors[np.clip(at, 0, factors.size - 1)].reshape(shape)
    return Conv(weight, None, operator.stride, operator.dilation, operator.padding, operator.groups)


def crop(layer: Conv, window: Window) -> Conv | None:
    """The layer without the taps outside `window`; None where no tap is left."""
    kept = [taps_within(axis, lo, hi) for axis, (lo, hi) in zip(layer.axes, window, strict=True)]
    if any(first > last for first, last in kept):
        return None
    place = tuple(slice(first, last + 1) for first, last in kept)
    padding = [
        (-(axis.start + first * axis.step), after - (axis.taps - 1 - last) * axis.step)
        for axis, (first, last), (_, after) in zip(layer.axes, kept, layer.padding, strict=True)
    ]
    weight = layer.weight[(slice(None), slice(None), *place)]
    return Conv(weight, layer.bias, layer.stride, layer.dilation, padding, layer.groups)


def taps_within(axis: Axis, lo: int, hi: int) -> tuple[int, int]:
    """First and last tap index whose offset lies in [lo, hi]; first > last where there is none."""
    first = max(0, -((axis.start - lo) // axis.step))
    return first, min(axis.taps - 1, (hi - axis.start) // axis.step)


def _zero(program: Program, bias: NDArray[np.float64]) -> Conv:
    """Nothing of the entry: one tap of zero, on the lattice of the others so that a sum with them stays on it."""
    axes, groups = program.reach[program.entry], program.groups
    shape = (program.channels[program.exit], program.channels[program.entry] // groups, *(1,) * len(axes))
    return Conv(np.zeros(shape), bias if np.any(bias) else None, [a.stride for a in axes], 1, [(-a.start, 0) for a in axes],
                groups)


def _tidy(kernel: Conv, bias: NDArray[np.float64], program: Program) -> Conv:
    """The bias put in, the strides of the program, and as many groups as the zeros of the kernel allow."""
    weight, groups = kernel.weight, kernel.groups
    if any(isinstance(step.op, (Stack, Pick)) for step in program.steps):
        dense = regroup(weight, groups, 1)
        groups = most_groups(dense)
        weight = with_groups(dense, groups)
    stride = [a.stride for a in program.reach[program.entry]]
    return Conv(weight, bias if np.any(bias) else None, stride, kernel.dilation, kernel.padding, groups)
