"""What every method is given: model, data, the same processor time; and the recovery that all of them end with.

Time is this process's processor time, so that what else the machine does is left out.  How many steps of training a method can
pay for follows from what a step of its student was measured to cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import quantiles
from time import process_time
from typing import Any

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from decascade.api.attempts import SPAN, Job, begin
from decascade.compression.data.batches import Dataset, Scaling, load_dataset
from decascade.compression.distill.loop import STAGE
from decascade.compression.distill.train import DistillOptions, distill
from decascade.compression.pipeline import Closeness, closeness, exact_tier
from decascade.compression.plan.survey import Survey
from decascade.ir.graph import Graph

LOOKED = 512
"""Images, held out of training, that a method chooses and stops by; the results are judged on others."""
PILOT = 14
"""Steps that prices are measured on."""
LOOKS = 42
"""Looks of a training at held-out images."""
TRIAL = 32
"""Steps of one learning rate's trial, after which there is one look."""
LEAST = 10
"""Steps that are made even where selection has used the time up."""


@dataclass
class Meter:
    """Processor seconds spent of a budget; measuring prices is free of charge, for every method alike."""

    budget: float
    charged: float = 0.0
    start: float = field(default_factory=process_time)
    free: float = 0.0

    @property
    def spent(self) -> float:
        return process_time() - self.start - self.free + self.charged

    @property
    def left(self) -> float:
        return self.budget - self.spent

    @contextmanager
    def stopped(self) -> Iterator[None]:
        before = process_time()
        yield
        self.free += process_time() - before


@dataclass(frozen=True)
class Price:
    """Processor seconds of the start of a training, of a step, of a look, and of the trial that found its learning rate."""

    start: float
    step: float
    look: float
    trial: float
    rate: float

    def steps(self, seconds: float) -> int:
        """Steps that so much time pays, the rate being known."""
        return max(int((seconds - self.start - LOOKS * self.look) / self.step), LEAST)


@dataclass(frozen=True, eq=False)
class Task:
    """A model with its data.  `job`: as compress begins; its held-out images are those looked at.  `judged`: the others."""

    name: str
    job: Job
    judged: Dataset
    test: Dataset

    @staticmethod
    def open(model: Path, train: list[Path], test: Path, scaling: Scaling | None, cache: Path) -> Task:
        options = DistillOptions(precision="bfloat16")
        job = begin(model, [str(path) for path in train], target="macs", loss="kl", span=SPAN, scaling=scaling,
                    input_shape=None, seed=0, cache=cache, options=options)
        rest, looked = job.train.split(LOOKED, 1)
        tests = load_dataset(test, job.subject.graph, job.subject.from_native, scaling=scaling)
        name = model.name.split(".")[0]
        return Task(name, replace(job, train=rest, held=looked), job.held, tests)

    @property
    def exact(self) -> Graph:
        """The original after the exact tier: what all methods start from."""
        return self.job.work.exact

    @property
    def wanted(self) -> str:
        """The class scores before a softmax."""
        return self.job.work.outputs[0].compared

    def macs(self, graph: Graph) -> float:
        return self.job.work.target.graph_cost(graph).value

    def budget(self, speedup: float) -> float:
        return self.job.work.before / speedup

    def images(self, count: int) -> Any:
        """Training images as one float tensor."""
        some = self.job.train.first(count)
        return some.tensors(np.arange(some.count))[self.exact.inputs[0]].float()

    @cached_property
    def _surveyed(self) -> tuple[Survey, float]:
        before = process_time()
        found = self.job.work.survey(silent)
        return found, process_time() - before

    def surveyed(self, meter: Meter) -> Survey:
        """The survey of all candidates, made once and charged to each who uses it."""
        with meter.stopped():
            found, seconds = self._surveyed
        meter.charged += seconds
        return found

    def looked(self, student: Graph) -> Closeness:
        return closeness(self.exact, student, self.job.held, self.job.work.outputs)


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


def price(task: Task, student: Graph) -> Price:
    """What training this student costs: the quarter of the steps and looks that others disturb least; and its learning rate."""
    ends, starts, rates, tried = list[float](), list[float](), list[float](), list[float]()

    def stepped(optimizer: Any, *_: Any) -> None:
        ends.append(process_time())
        rates.append(optimizer.defaults["lr"])

    def progress(stage: str, share: float) -> None:
        (starts if stage == STAGE else tried).append(process_time())

    start, hook = process_time(), register_optimizer_step_post_hook(stepped)
    job = task.job
    # half a step less, which counts as a whole one: exactly so many steps
    options = replace(job.options, epochs=(PILOT - 0.5) / (job.train.count // job.options.batch), patience=1.0)
    try:
        distill(student, task.exact, job.train, options, held=job.held, outputs=job.work.outputs, progress=progress)
    finally:
        hook.remove()
    trials = len(ends) - PILOT
    ends = ends[trials:]
    steps = [end - begun for begun, end in zip(starts, ends[1:], strict=False)]
    looks = [begun - end for begun, end in zip(starts, ends, strict=False)]
    step, look = (quantiles(times[1:], n=4)[0] for times in (steps, looks))
    trial = trials * (step + look / TRIAL) + look
    return Price(tried[0] - start, step, look, trial, rates[-1])


def trained(task: Task, student: Graph, steps: int, **changes: Any) -> Graph:
    """The student after so many steps of the project's distillation, as it came out best."""
    per_epoch = task.job.train.count // task.job.options.batch
    options = replace(task.job.options, epochs=steps / per_epoch, **changes)
    return distill(student, task.exact, task.job.train, options, held=task.job.held, outputs=task.job.work.outputs).graph


@dataclass(frozen=True, eq=False)
class Made:
    """What a method made: the graph, the steps it was trained for, the seconds its selection took, and what is to be said."""

    graph: Graph
    steps: int
    selecting: float
    spent: float
    note: str = ""


def recovered(task: Task, student: Graph, meter: Meter, note: str = "") -> Made:
    """The distillation that every method ends with, for as many steps as the rest of the budget pays."""
    selecting = meter.spent
    with meter.stopped():
        cost = price(task, student)
    meter.charged += cost.trial
    steps = cost.steps(meter.left)
    found = exact_tier(trained(task, student, steps, rate=cost.rate), task.job.work.target)
    return Made(found, steps, selecting, meter.spent, note)
