"""decascade's own way: survey, exact choice, closed-form students, distillation."""

from __future__ import annotations

from dataclasses import replace
from time import process_time

from decascade.api.attempts import attempt
from decascade.api.runs import RunFolder
from peers.task import Made, Meter, Task, price, silent


def compressed(task: Task, speedup: float, meter: Meter) -> Made:
    """What `decascade compress --speedup` does, its epochs set by the budget instead of a time limit."""
    plan = task.surveyed(meter).plan(task.budget(speedup))
    with meter.stopped():
        before = process_time()
        student = task.job.work.student(plan, silent)
        assembled = process_time() - before
        cost = price(task, student)
    selecting = meter.spent + assembled
    meter.charged += cost.trial
    steps = cost.steps(meter.left - assembled)
    per_epoch = task.job.train.count // task.job.options.batch
    job = replace(task.job, options=replace(task.job.options, epochs=steps / per_epoch, rate=cost.rate))
    found = attempt(job, plan, RunFolder(), True, None, silent)
    told = "; ".join(f"{c.student} for {len(c.nodes)} nodes" for c in plan.choices)
    return Made(found.graph, steps, selecting, meter.spent, told)
