"""LayerMerge's selection (Kim et al., ICML 2024) over decascade's own segments and students.

A table of importance I = exp(Δ) with Δ the change of accuracy after a short fine-tuning of that segment alone, here of
agreement with the original, as there are no labels; a kept layer has I = 1.  Then the dynamic programme over the layers in
order, D[t, e] = max over segments (s, e) and their students of D[t − T, s] + I, with costs T in `GRID` parts of the original's.
The students start from our least-squares fits and are fitted again in the chosen net as ours are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf
from time import process_time
from typing import Any

import numpy as np
import torch

from decascade.compression.distill.parameters import Trainable, measured
from decascade.compression.pipeline import Again, exact_tier
from decascade.compression.plan.assemble import assemble, put_in
from decascade.compression.plan.candidates import Candidate, Fitted, thinned
from decascade.compression.plan.survey import batch_size
from decascade.compression.torch_graph.graph import Lowered
from peers.task import Made, Meter, Task, recovered, silent
from support.torch_net import weighted

GRID = 500
KEEP = 3
"""Students per segment that get a place in the table."""
SHARE = 0.45
"""Of the budget, for the table, besides the fits."""
BATCH, RATE, TEMPERATURE = 128, 1e-3, 3.0


@dataclass(frozen=True)
class Entry:
    """Nodes start ≤ i < end of the graph, replaced by a student; cost on the grid, and importance."""

    start: int
    end: int
    cost: int
    importance: float
    candidate: Candidate | None = None


def selected(task: Task, speedup: float, meter: Meter) -> Made:
    survey = task.surveyed(meter)
    found, places = thinned(survey.fitted, KEEP), {node.name: i for i, node in enumerate(task.exact.nodes)}
    spans = [sorted(places[name] for name in f.candidate.student.site.segment.nodes) for f in found]
    usable = [(f, s) for f, s in zip(found, spans, strict=True) if s[-1] - s[0] + 1 == len(s)]
    images, unit = _Images.of(task), task.job.work.before / GRID
    each = SHARE * meter.budget / max(len(usable), 1)
    entries, steps = _kept(task, unit), 0
    for fitted, span in usable:
        agreement, made = tuned(task, fitted, images, each)
        entries.append(Entry(span[0], span[-1] + 1, ceil(fitted.candidate.cost / unit), exp(agreement - 1), fitted.candidate))
        steps += made
    chosen = programme(entries, len(task.exact.nodes), int(task.budget(speedup) / unit))
    work = task.job.work
    batches = Again(work.samples, batch_size(work.exact, work.samples.count))
    student = exact_tier(assemble(work.exact, chosen, batches, work.samples.count, 0, silent), work.target)
    students = "; ".join(f"{c.student.label} for {len(c.student.site.segment.nodes)} nodes" for c in chosen)
    told = f"{len(usable)} of {len(found)} students in the table, {steps / max(len(usable), 1):.1f} steps of fine-tuning each"
    return recovered(task, student, meter, f"{told}; {students}")


def _kept(task: Task, unit: float) -> list[Entry]:
    """Every node as it is."""
    target, graph = task.job.work.target, task.exact
    costs = [target.segment_cost([node], graph.tensors).value / unit for node in graph.nodes]
    return [Entry(i, i + 1, ceil(cost - 1e-9), 1.0 if weighted(node) else 0.0)
            for i, (node, cost) in enumerate(zip(graph.nodes, costs, strict=True))]


@dataclass(frozen=True, eq=False)
class _Images:
    """Training images, and held-out ones with what the original says of them."""

    train: Any
    answers: Any
    looked: Any
    decided: Any

    @staticmethod
    def of(task: Task) -> _Images:
        name, lowered = task.exact.inputs[0], Lowered(task.exact, channels_last=True)
        train = task.images(16 * BATCH)
        looked = task.job.held.tensors(np.arange(task.job.held.count))[name].float()
        with torch.no_grad():
            said = [lowered.run({name: x}, [task.wanted])[task.wanted] for x in (train, looked)]
        return _Images(train, said[0], looked, said[1].argmax(1))


def tuned(task: Task, fitted: Fitted, images: _Images, seconds: float) -> tuple[float, int]:
    """Agreement with the original once this student alone has been trained for so long in its place, and the steps made."""
    end = process_time() + seconds
    graph, wanted, source = task.exact, task.wanted, task.exact.inputs[0]
    student = put_in(graph, fitted)
    known = {node.name for node in graph.nodes}
    student = replace(student, nodes=tuple(replace(n, pinned="kept") if n.name in known else n for n in student.nodes))
    lowered = Lowered(student, channels_last=True)
    trainable = Trainable(lowered, measured(lowered, [{source: images.train[:BATCH]}]))
    parameters, step = [p for p in trainable.module.parameters() if p.requires_grad], 0
    optimizer: Any = torch.optim.AdamW(parameters, RATE, weight_decay=0.0)
    while step == 0 or process_time() < end:
        rows = slice(step * BATCH % len(images.train), step * BATCH % len(images.train) + BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            said = trainable.run({source: images.train[rows]}, [wanted])[wanted].float()
        q, p = (torch.log_softmax(x / TEMPERATURE, 1) for x in (said, images.answers[rows]))
        optimizer.zero_grad()
        (p.exp() * (p - q)).sum(1).mean().backward()
        optimizer.step()
        step += 1
    with torch.no_grad():
        said = trainable.run({source: images.looked}, [wanted])[wanted]
    return float((said.argmax(1) == images.decided).double().mean()), step


def programme(entries: Sequence[Entry], nodes: int, budget: int) -> list[Candidate]:
    """The students of the choice with the largest sum of importances within the budget."""
    best = [[-inf] * (budget + 1) for _ in range(nodes + 1)]
    taken: list[list[Entry | None]] = [[None] * (budget + 1) for _ in range(nodes + 1)]
    best[0] = [0.0] * (budget + 1)
    for entry in sorted(entries, key=lambda e: e.end):
        for t in range(entry.cost, budget + 1):
            value = best[entry.start][t - entry.cost] + entry.importance
            if value > best[entry.end][t]:
                best[entry.end][t], taken[entry.end][t] = value, entry
    if best[nodes][budget] == -inf:
        raise ValueError(f"no choice costs at most {budget} of {GRID} parts")
    chosen, place, left = list[Candidate](), nodes, budget
    while place:
        entry = taken[place][left]
        assert entry is not None
        chosen += [entry.candidate] if entry.candidate is not None else []
        place, left = entry.start, left - entry.cost
    return chosen[::-1]
