"""compress from graph to graph: the exact tier, the survey, the plan, the assembled student, the exact tier again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import inf
from time import monotonic
from typing import Any

from decascade.compression.deadline import Deadline
from decascade.compression.divergence import Output, divergence
from decascade.compression.plan.assemble import assemble, runner
from decascade.compression.plan.candidates import Fitted, needed
from decascade.compression.plan.choice import Plan
from decascade.compression.plan.survey import COLLECTING, Samples, Survey, batch_size, chosen_candidates, survey
from decascade.compression.torch_graph.graph import Lowered
from decascade.cost import Target
from decascade.ir.graph import Graph
from decascade.regions.merge import Options, merge_graph

Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Work:
    """A model to be compressed and what with: `original` as it was read, `exact` after the exact tier, which all students
    replace parts of.  `outputs`: what is compared of it."""

    original: Graph
    exact: Graph
    target: Target
    samples: Samples
    outputs: tuple[Output, ...]
    span: int
    seed: int

    @property
    def before(self) -> float:
        """The cost of the original, in the target's unit."""
        return self.target.graph_cost(self.original).value

    def survey(self, progress: Progress, seconds: float | None = None, last: Deadline | None = None) -> Survey:
        return survey(
            self.exact, self.target, self.before, self.samples, self.outputs, self.span, self.seed, progress, seconds, last
        )

    def student(
        self, plan: Plan, progress: Progress, seconds: float | None = None, known: Sequence[Fitted] = (),
    ) -> Graph:
        """The plan's students put in and fitted, and what the exact tier makes of the result.  Where `seconds` do not suffice,
        fits rest on fewer samples, and those that are `known` are then not made again."""
        chosen = chosen_candidates(self.exact, plan)
        size = batch_size(self.exact, self.samples.count)
        batches, end = Again(self.samples, size), Deadline()
        if seconds is not None:
            end = Deadline(monotonic() + seconds, monotonic)
            batches = Paced(self.samples, size, needed(chosen), end.end, len(chosen))
        made = assemble(self.exact, chosen, batches, self.samples.count, self.seed, progress, known, lambda: end.over)
        return exact_tier(made, self.target)


def exact_tier(graph: Graph, target: Target) -> Graph:
    """Everything merged that is exact and pays."""
    return merge_graph(graph, Options(target))[0]


@dataclass(eq=False)
class Again:
    """The batches of samples, as something that can be gone through more than once."""

    samples: Samples
    size: int

    def __iter__(self) -> Any:
        return self.samples.batches(self.size)


@dataclass(eq=False)
class Paced(Again):
    """The same, where all `passes` over them have to end at `end`: those that are left share the time that is left equally, and
    a pass that has used up `COLLECTING` of its share takes no more samples than its fits need, `least`."""

    least: int
    end: float
    passes: int

    def __iter__(self) -> Any:
        stop = monotonic() + COLLECTING * max(self.end - monotonic(), 0.0) / max(self.passes, 1)
        self.passes, taken = self.passes - 1, 0
        for batch in self.samples.batches(self.size):
            yield batch
            taken += self.size
            if monotonic() > stop and taken >= self.least:
                return


@dataclass(frozen=True)
class Closeness:
    """A student against the original on samples: the mean divergence of the outputs (see `divergence`); where the output is
    classes, the share of samples on which both decide for the same, and given labels the accuracy of both."""

    divergence: float
    samples: int
    agreement: float | None = None
    accuracy: float | None = None
    original_accuracy: float | None = None
    changed: tuple[int, int] = (0, 0)
    """Given labels: predictions that became right, and that became wrong."""

    @property
    def drop(self) -> float | None:
        """Accuracy lost, in points."""
        if self.accuracy is None or self.original_accuracy is None:
            return None
        return 100 * (self.original_accuracy - self.accuracy)


def closeness(
    original: Graph, student: Graph, samples: Samples, outputs: tuple[Output, ...], labels: Any = None,
    seconds: float | None = None,
) -> Closeness:
    """How close a student is on samples.  `labels`: (count,) class numbers, in the order of the samples.  After `seconds` no
    further batch is begun."""
    end = inf if seconds is None else monotonic() + seconds
    torch: Any = import_module("torch")
    names = [output.compared for output in outputs]
    runs = [runner(Lowered(graph)) for graph in (original, student)]
    size = batch_size(original, max(samples.count, 8))
    total, count, decided = 0.0, 0, [list[Any](), list[Any]()]
    for batch in samples.batches(size):
        found: list[Mapping[str, Any]] = [run(batch, names) for run in runs]
        rows = len(found[0][names[0]])
        total, count = total + float(divergence(outputs, *found)) * rows, count + rows
        for some, values in zip(decided, found, strict=True):
            some.append(values[names[0]].argmax(1))
        if monotonic() > end:
            break
    if outputs[0].kind != "kl":
        return Closeness(total / max(count, 1), count)
    a, b = (torch.cat(some) for some in decided)
    agreement = float((a == b).double().mean())
    if labels is None:
        return Closeness(total / count, count, agreement)
    right, kept = a == torch.as_tensor(labels[:count]), b == torch.as_tensor(labels[:count])
    changed = int((kept & ~right).sum()), int((right & ~kept).sum())
    return Closeness(total / count, count, agreement, float(kept.double().mean()), float(right.double().mean()), changed)
