"""What is made small: how far the student's outputs, and tensors on the way to them, are from the original's.

Outputs that are class scores are compared as probabilities softened by a temperature T, KL(p_T ‖ q_T)·T² (Hinton, Vinyals,
Dean 2015); others by their squared error over the original's variance.  Tensors between the two ends that both graphs have are
compared by squared error over variance too, with a weight that falls to zero towards the end.

A gradient does not pass an operation that only NumPy can run.  What such an operation reads is then compared as well, so that
the layers before it are trained segment by segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decascade.compression.divergence import Output
from decascade.compression.torch_graph.graph import Lowered
from decascade.compression.torch_graph.ops import load_torch, passes_gradient
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Affine, Flatten, GlobalPool, Identity, Pool
from decascade.ir.ops.traits import words

Values = Mapping[str, Any]
Loss = Callable[[Values, Values, float], Any]
FEATURES = 6
"""At most so many tensors on the way are compared, spread evenly."""


@dataclass(frozen=True)
class Feature:
    """A tensor of both graphs; `variance` is the original's, `steady`: its weight does not fall."""

    name: str
    variance: float
    steady: bool = False


@dataclass(frozen=True)
class Objective:
    """The loss of a student's values against the original's, by tensor name."""

    outputs: tuple[Output, ...]
    features: tuple[Feature, ...]
    variances: Mapping[str, float]
    temperature: float
    weight: float

    @property
    def wanted(self) -> tuple[str, ...]:
        """The tensors that the loss compares."""
        return tuple(dict.fromkeys([*(o.compared for o in self.outputs), *(f.name for f in self.features)]))

    @property
    def judged(self) -> tuple[str, ...]:
        """The tensors that `distance` and `agreement` compare."""
        return tuple(dict.fromkeys(o.compared for o in self.outputs)) or self.wanted

    def __call__(self, student: Values, original: Values, share: float) -> Any:
        """The mean over the samples; `share` of the training is done."""
        total = self.distance(student, original)
        for feature in self.features:
            weight = 1.0 if feature.steady else self.weight * (1 - share) / max(len(self.features), 1)
            if weight:
                total = total + weight * _error(feature, student, original)
        return total

    def distance(self, student: Values, original: Values) -> Any:
        """The part of the outputs; where none can be computed, that of the tensors compared in their place."""
        total: Any = 0.0
        for output in self.outputs:
            a, b = student[output.compared].float(), original[output.compared].float()
            kl = output.kind == "kl"
            total = total + (self._divergence(a, b) if kl else (a - b).square().mean() / self.variances[output.name])
        for feature in () if self.outputs else self.features:
            total = total + _error(feature, student, original)
        return total

    def _divergence(self, student: Any, original: Any) -> Any:
        torch = load_torch()
        q, p = (torch.log_softmax(x / self.temperature, 1) for x in (student, original))
        return (p.exp() * (p - q)).sum(1).mean() * self.temperature**2

    def agreement(self, student: Values, original: Values) -> float | None:
        """The share of samples (and positions) on which both decide for the same class; None without classes."""
        kinds = [o.compared for o in self.outputs if o.kind == "kl"]
        if not kinds:
            return None
        return float((student[kinds[0]].argmax(1) == original[kinds[0]].argmax(1)).float().mean())


def _error(feature: Feature, student: Values, original: Values) -> Any:
    return (student[feature.name].float() - original[feature.name].float()).square().mean() / feature.variance


def objective(
    student: Lowered, original: Lowered, outputs: Sequence[Output], batch: Values, temperature: float, weight: float,
) -> tuple[Objective, list[str]]:
    """The loss for a student, and remarks on what of it no gradient reaches.  `batch` is what variances are measured on."""
    can = [o for o in outputs if student.computable(o.compared) and original.computable(o.compared)]
    barriers = _barriers(student, original)
    shared = _spread([n for n in cuts(student.graph) if _shared(n, student, original) and n not in barriers]) if weight else []
    names = [*shared, *barriers]
    wanted = list(dict.fromkeys([*names, *(o.compared for o in can)]))
    with load_torch().no_grad():
        values = original.run(batch, wanted)
    spread = {name: max(float(values[name].float().var(correction=0)), 1e-20) for name in wanted}
    features = tuple(Feature(name, spread[name], name in barriers) for name in names)
    found = Objective(tuple(can), features, {o.name: spread[o.compared] for o in can}, temperature, weight)
    return found, list(_remarks(student, outputs, can, barriers))


def _remarks(student: Lowered, outputs: Sequence[Output], can: Sequence[Output], barriers: Sequence[str]) -> Iterator[str]:
    if barriers:
        told = ", ".join(f"{n.name} ({words(n.op)})" for n in blocks(student))
        yield f"no gradient passes {told}: the layers before are trained segment by segment, on what goes in there"
    lost = [o.name for o in outputs if o not in can]
    if lost:
        yield f"output {', '.join(lost)} cannot be computed here: the layers that only it depends on stay as they were fitted"


def blocks(student: Lowered) -> list[Node]:
    """The operations behind trained weights that no gradient passes."""
    behind, found = set[str](), list[Node]()
    for node in student.graph.nodes:
        if behind.intersection(node.inputs) or node.name in student.weights:
            behind.update(node.outputs)
            found += [] if passes_gradient(node.op) else [node]
    return found


def _barriers(student: Lowered, original: Lowered) -> list[str]:
    """What those read, where the original has it too."""
    found = dict.fromkeys(name for node in blocks(student) for name in node.inputs)
    return [name for name in found if _shared(name, student, original)]


def _shared(name: str, student: Lowered, original: Lowered) -> bool:
    """Whether both graphs have a tensor of numbers of that name and shape, and can compute it."""
    ours, theirs = student.graph.tensors.get(name), original.graph.tensors.get(name)
    if ours is None or theirs is None or ours.shape is None or theirs.shape is None:
        return False
    alike = ours.shape[1:] == theirs.shape[1:] and ours.dtype.startswith("float")
    return alike and student.computable(name) and original.computable(name)


def cuts(graph: Graph) -> list[str]:
    """Tensors through which everything goes, in order; of neighbours with one element-wise operation between them the last.

    Neither inputs, nor what pools, nor what is beyond the last layer with spatial axes.
    """
    last = {name: k for k, node in enumerate(graph.nodes) for name in node.inputs}
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    found, alive = list[Node](), set(graph.inputs)
    for k, node in enumerate(graph.nodes):
        alive = {name for name in (*alive, *node.outputs) if last.get(name, -1) > k}
        if alive == {node.output} and passes_gradient(node.op) and not isinstance(node.op, Pool | GlobalPool | Flatten):
            found.append(node)
    names = {node.output for node in found}
    passed = {n.inputs[0] for n in found if isinstance(n.op, Activation | Affine | Identity) and n.inputs[0] in names}
    spatial = [node.output for node in found if len(graph.shape(node.output) or ()) > 2]
    return [name for name in spatial if name not in passed and name not in graph.outputs]


def _spread(names: Sequence[str]) -> list[str]:
    if len(names) <= FEATURES:
        return list(names)
    return [names[round(k * (len(names) - 1) / (FEATURES - 1))] for k in range(FEATURES)]


def joined(results: Iterable[tuple[float, float | None, int]]) -> tuple[float, float | None]:
    """The means of losses and agreements over batches of these sizes."""
    loss, agreed, count = 0.0, 0.0, 0
    known = True
    for distance, agreement, size in results:
        loss, count = loss + distance * size, count + size
        known = known and agreement is not None
        agreed += (agreement or 0.0) * size
    return loss / max(count, 1), agreed / max(count, 1) if known else None
