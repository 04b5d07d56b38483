"""decascade's own way: survey, exact choice, closed-form students, distillation."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from time import process_time

from decascade.api.attempts import attempt
from decascade.api.runs import RunFolder
from decascade.compression.plan.choice import Plan
from decascade.cost.cache import Cache
from decascade.deploy.targets import target_of
from peers.task import Made, Meter, Task, price, silent

MEASURING = 0.3
"""The share of the budget that the survey may measure layers in."""


def compressed(task: Task, speedup: float, meter: Meter) -> Made:
    """What `decascade compress --speedup` does, its epochs set by the budget instead of a time limit."""
    return _carried_out(task, task.surveyed(meter).plan(task.budget(speedup)), meter)


def compressed_for_latency(task: Task, speedup: float, meter: Meter) -> Made:
    """The same with `--target onnxruntime`: what measuring layers takes is paid for, and nothing of it is known before."""
    with tempfile.TemporaryDirectory() as folder:
        work = replace(task.job.work, target=target_of("onnxruntime", cache=Cache(Path(folder) / "measurements.json")))
        timed = replace(task, job=replace(task.job, work=work))
        plan = work.survey(silent, MEASURING * meter.budget).plan(work.before / speedup)
        return _carried_out(timed, plan, meter)


def _carried_out(task: Task, plan: Plan, meter: Meter) -> Made:
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
