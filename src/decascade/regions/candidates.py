"""What could replace a segment, and what that would cost: every form sketched, the cheapest kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from decascade.algebra.border import Border, Kind, find_border
from decascade.algebra.conv import Conv, ConvTranspose
from decascade.algebra.program import Flat, Program
from decascade.cost import Cost, Target
from decascade.cost.count import parameters
from decascade.errors import AlgebraError
from decascade.ir.graph import Graph, Node, Shape, Tensor
from decascade.ir.names import Names
from decascade.ir.ops import Dense, Flatten
from decascade.regions.anysize import right_at_any_size
from decascade.regions.forms import Builder, write_form
from decascade.regions.kernels import Composed, Sketched
from decascade.regions.lower import Refusal, is_convolution, lower
from decascade.regions.transposed import fold, layers_of, spreads

FORMS: dict[Kind, tuple[str, ...]] = {
    "free": ("conv",),
    "bias": ("shift", "ones", "map", "tiles"),
    "ring": ("tiles", "strips"),
}


ON_ENTRY = ("frame", "ones_channel", "padding_value")
"""Roles of new tensors that are as large as the entry, not as the exit."""


@dataclass(frozen=True)
class Options:
    """What merging aims at.

    target: the cost model.  policy "profitable" never raises its cost, "always" goes to the fewest layers.
    border "refuse" leaves every cascade alone whose border needs a correction.  max_growth: cap on stored kernels,
    corrections included, against the cascade's own parameters.
    """

    target: Target
    policy: Literal["profitable", "always"] = "profitable"
    border: Literal["exact", "refuse"] = "exact"
    max_growth: float = 16.0


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes between two tensors, considered for replacement."""

    entry: str
    exit: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way of replacing a segment: the form, what the sketched nodes cost, and how many there are.

    A kind of "" is a lower bound on all forms that already costs too much: never written, only talked about.
    """

    segment: Segment
    form: str
    kind: Kind | Literal[""]
    cost: Cost
    kernel: tuple[int, ...]
    kernels: Composed | None
    operations: int = 1


def candidate(graph: Graph, sized: Graph, segment: Segment, options: Options) -> Candidate | Refusal:
    """The cheapest form of a segment under the target, within the growth cap, or why there is none.

    `sized` is the graph with numbers for all sizes, for costs alone.
    """
    if isinstance(segment.nodes[-1].op, Flatten):
        return Refusal("the run ends in a flatten: what comes before it is merged, the flatten stays")
    if any(map(spreads, segment.nodes)):
        return _transposed(graph, sized, segment, options)
    program = lower(graph, segment.nodes, segment.entry, segment.exit)
    if isinstance(program, Refusal):
        return program
    try:
        dear = _dearer_anyway(program, sized, segment, options)
        if dear is not None:
            return dear
        border = find_border(program)
    except AlgebraError as error:
        return Refusal(str(error), segment.exit)
    if border.kind != "free" and options.border == "refuse":
        return Refusal(f"zero padding between the layers needs a {border.kind} correction, and --border refuse forbids it")
    if border.kind == "ring" and border.unknown:
        return Refusal("zero padding between the layers needs a correction along the border, "
                       "and the size of the map is not known before the model runs (fix it with --input-shape)")
    return _cheapest(graph, sized, segment, border, options)


def _dearer_anyway(program: Program, sized: Graph, segment: Segment, options: Options) -> Candidate | None:
    """A segment whose one convolution, border left aside, already costs more: no form of it can pay.  Most end here."""
    if options.policy == "always":
        return None
    axes, rank = program.reach[segment.entry], program.rank
    out, groups = program.channels[segment.exit], program.groups
    weight = np.broadcast_to(np.float32(0), (out, program.channels[segment.entry] // groups, *(a.taps for a in axes)))
    tensors = sized.tensors
    strides = [a.stride for a in axes]
    padding = _fitting(sized.shape(segment.entry), sized.shape(segment.exit), weight.shape[2:], strides)
    conv = Conv(weight, None, strides, padding=padding, groups=groups)
    if any(isinstance(step.op, Flat) for step in program.steps):
        return None
    node = Node("sketch", conv if rank else Dense(conv), (segment.entry,), (segment.exit,))
    cost = options.target.segment_cost([node], tensors)
    if cost.value <= options.target.segment_cost(segment.nodes, tensors).value:
        return None
    return Candidate(segment, "conv", "", cost, tuple(a.taps for a in axes), None)


def _fitting(before: Shape | None, after: Shape | None, taps: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Padding with which a kernel makes a map of the size after it: a tool that measures the sketch runs it."""
    found = list[tuple[int, int]]()
    for n, m, k, s in zip((before or ())[2:], (after or ())[2:], taps, strides, strict=False):
        short = (m - 1) * s + k - n if isinstance(n, int) and isinstance(m, int) else 0
        # up to a stride of rows too many are left out anyway
        found.append((short // 2, short - short // 2) if short > 0 else (0, 0 if short > -s else short))
    return found or [(0, 0)] * len(taps)


def _cheapest(graph: Graph, sized: Graph, segment: Segment, border: Border, options: Options) -> Candidate | Refusal:
    own = sum(parameters(n) for n in segment.nodes)
    kernel = tuple(a.taps for a in border.program.reach[segment.entry])
    before = options.target.segment_cost(segment.nodes, sized.tensors)
    found, capped = list[tuple[int, int, float, int, int, str]](), list[float]()
    for form in FORMS[border.kind]:
        if (least := _least_stored(form, border)) > options.max_growth * own:
            capped.append(least / max(own, 1))
            continue
        growth, cost, count = _cost_of_form(form, graph, sized, segment, border, options)
        if growth > options.max_growth * own:
            capped.append(growth / max(own, 1))
        else:
            # First what pays at all, then what does not store more than the cascade did, then what is cheapest; of
            # equals the one with fewer operations (a bias map rather than nine tiles).
            # For the fewest layers: a bias carried by two operations before one carried by a kernel per class.
            fewest = options.policy == "always" and border.kind == "bias"
            dear = count if fewest else int(cost >= before)
            found.append((dear, int(growth > own), cost.value, count, cost.parameters, form))
    kernels = Composed(border)
    for *_, value, count, stored, form in sorted(found):
        if border.kind != "bias" or form in ("map", "tiles") or _exists(form, kernels):
            return Candidate(segment, form, border.kind, Cost(value, stored), kernel, kernels, count)
    corrected = "" if border.kind == "free" else " with its border corrections"
    return Refusal(
        f"one {_times(kernel)} convolution{corrected} would store {min(capped):.1f}x the parameters of the "
        f"cascade, above the cap of {options.max_growth:g}x (--max-growth)",
        numbers={"growth": min(capped), "cap": options.max_growth},
    )


def _least_stored(form: str, border: Border) -> int:
    """A lower bound on the numbers that a form stores, from the taps per axis alone."""
    program = border.program
    taps = program.channels[program.exit] * program.channels[program.entry] // program.groups
    for axis, classes in zip(program.reach[program.entry], border.axes, strict=True):
        if form == "tiles" and classes:
            taps *= sum(max(c.entry[1] - c.entry[0], 0) // axis.step + 1 for c in classes)
        elif form == "strips" and classes:
            taps *= axis.taps + sum((c.outside[1] - c.outside[0]) // axis.step + 1 for c in classes if c.outside)
        elif not border.single:
            taps *= axis.taps
    return taps


def _exists(form: str, kernels: Composed) -> bool:
    return (kernels.shift() if form == "shift" else kernels.ones()) is not None


def _cost_of_form(
    form: str, graph: Graph, sized: Graph, segment: Segment, border: Border, options: Options
) -> tuple[float, Cost, int]:
    builder = Builder(graph, segment.entry, segment.exit, "sketch", Names(sized.tensors))
    if not write_form(form, Sketched(border), builder):
        return float("inf"), Cost(float("inf")), 0
    tensors = {**sized.tensors, **_sized_like(builder.tensors, sized, segment)}
    cost = options.target.segment_cost(builder.nodes, tensors)
    if form == "tiles":
        # Classes at the border leave out the taps on padding, which every other layer is charged for: to pay, a form
        # of many small convolutions has to be cheaper even when it is charged for them too.
        _, full, _ = _cost_of_form("conv", graph, sized, segment, border, options)
        cost = Cost(max(cost.value, full.value), cost.parameters)
    return sum(parameters(n) for n in builder.nodes), cost, sum(not isinstance(n.op, Flatten) for n in builder.nodes)


def _sized_like(tensors: dict[str, Tensor], sized: Graph, segment: Segment) -> dict[str, Tensor]:
    """New tensors with unknown sizes take those of the exit or the entry, whichever they follow by rank."""
    out = dict[str, Tensor]()
    for name, tensor in tensors.items():
        like = sized.shape(segment.entry if name.split("/")[-2] in ON_ENTRY else segment.exit) or ()
        shape = tensor.shape or ()
        known = tuple(n if isinstance(n, int) or len(like) != len(shape) else m for n, m in zip(shape, like, strict=False))
        out[name] = Tensor(name, known if len(known) == len(shape) else shape, tensor.dtype)
    return out


def _transposed(graph: Graph, sized: Graph, segment: Segment, options: Options) -> Candidate | Refusal:
    layers = layers_of(graph, segment.nodes)
    folded = layers if isinstance(layers, Refusal) else fold(layers)
    if isinstance(folded, Refusal):
        return folded
    own = sum(parameters(n) for n in segment.nodes)
    if folded.parameters > options.max_growth * own:
        return Refusal(f"one transposed convolution would store {folded.parameters / max(own, 1):.1f}x the parameters of the "
                       f"cascade, above the cap of {options.max_growth:g}x (--max-growth)")
    node = Node("sketch", folded, (segment.entry,), (segment.exit,))
    return Candidate(segment, "transposed", "free", options.target.segment_cost([node], sized.tensors), folded.kernel, None)


def realise(graph: Graph, chosen: Candidate, label: str, names: Names) -> Builder:
    """The candidate's nodes with their real kernels."""
    segment = chosen.segment
    builder = Builder(graph, segment.entry, segment.exit, label, names)
    if chosen.kernels is None:
        layers = layers_of(graph, segment.nodes)
        folded = layers if isinstance(layers, Refusal) else fold(layers)
        assert isinstance(folded, (Conv, ConvTranspose))
        builder.add(folded, [segment.entry], (), last=True)
        return builder
    written = write_form(chosen.form, chosen.kernels, builder)
    assert written
    any_size = right_at_any_size(chosen.form, chosen.kernels.border.program, builder.nodes)
    if not any_size or any(node.sized for node in segment.nodes):
        builder.nodes = [replace(node, sized=True) for node in builder.nodes]
    return builder


def is_cascade(nodes: Sequence[Node]) -> bool:
    """Two layers or more that a user would call convolutions."""
    return sum(map(is_convolution, nodes)) > 1


def _times(kernel: Sequence[int]) -> str:
    return "x".join(map(str, kernel)) or "dense"
