"""Recovery: a student trained end to end to say what the original model says, on data without labels.

Starts from the student as it is given and never ends worse than it on the held-out samples.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from time import process_time
from typing import Any, Literal, cast

import numpy as np

from decascade.compression.data.batches import Dataset
from decascade.compression.distill.augment import Augment, possible, suited
from decascade.compression.distill.loop import Judge, Progress, Setting, Training, TrainLoss, Values
from decascade.compression.distill.objective import Objective, objective
from decascade.compression.distill.parameters import Frame, Trainable, measured
from decascade.compression.distill.rate import suited_rate
from decascade.compression.distill.schedule import Clock, Schedule
from decascade.compression.distill.state import FILE, Point, State, broken, fingerprint, load
from decascade.compression.divergence import Output, outputs_of
from decascade.compression.torch_graph.graph import Lowered
from decascade.compression.torch_graph.ops import load_torch
from decascade.errors import UsageError
from decascade.ir.graph import Graph

EPOCHS, STEPS = 30, 2000
"""Where neither a time nor epochs are given: so many epochs, of few samples so many steps."""
LEAST = 16
"""Samples without which nothing is trained."""
MEASURED = 512
"""Samples that the constants of the trained weights are measured on."""
WATCHED = 256
"""Samples that variances and the fitness of augmentations are measured on."""
ROOM = 2**30
"""Bytes that the activations of a batch may take."""
ENDLESS = 2**62
"""Steps of a training that a time alone ends."""
FASTER = 0.85
"""Share of float32's time that bfloat16 must stay below to be used."""
AUTO = Augment()
NOTHING = Augment(flip=False, shift=0.0)

UserLoss = Callable[[Values, Values, Any], Any]
MakeOptimizer = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class DistillOptions:
    """How a student is trained.

    `epochs` over the data (by default 30, of few samples as many as 2,000 steps take), in batches of `batch`; a time limit
    ends it earlier. `rate`: the highest learning rate of AdamW (by default found by trial, see `suited_rate`).
    `temperature` softens class probabilities; `features` weights the tensors on the way to the outputs. `augment`: "auto"
    changes pictures in ways that the original bears, None nothing. `precision`: "auto" is bfloat16 where that is measured
    to be faster. `patience`: share of the training without anything better after which it stops. `loss(student, original,
    labels)` on tensors by name, and `optimizer(parameters)`, replace the built-in ones.
    """

    epochs: float | None = None
    batch: int = 128
    rate: float | None = None
    weight_decay: float = 0.0
    temperature: float = 3.0
    features: float = 1.0
    augment: Augment | Literal["auto"] | None = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    patience: float = 0.4
    warm: float = 0.05
    seed: int = 0
    loss: UserLoss | None = field(default=None, repr=False)
    optimizer: MakeOptimizer | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, least in {"batch": 1, "weight_decay": 0, "features": 0, "seed": 0}.items():
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} = {getattr(self, name)}: give a number from {least} on")
        for name in ("rate", "temperature", "patience", "epochs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} = {value}: give a number above 0")
        if not 0 <= self.warm < 1:
            raise UsageError(f"warm = {self.warm}: give a share of the training below 1")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise UsageError(f"precision = {self.precision!r}: give one of auto, float32, bfloat16")


@dataclass(frozen=True, eq=False)
class Distilled:
    """A trained student.

    `graph`: the best one that was seen.  `model`: the same as a `torch.nn.Module` on the graph's inputs that can be trained
    further, with `loss(batch)` for it (a mapping of input tensors by name, or the tensor of the only input) and `to_graph()`
    afterwards.  `history` begins with the student as it was given.
    """

    graph: Graph
    history: tuple[Point, ...]
    notes: tuple[str, ...]
    seconds: float
    trainable: Trainable = field(repr=False)
    original: Lowered = field(repr=False)
    objective: Objective = field(repr=False)

    @property
    def model(self) -> Any:
        return self.trainable.module

    @property
    def start(self) -> Point:
        return self.history[0]

    @property
    def best(self) -> Point:
        return min(self.history, key=lambda point: point.held)

    def loss(self, batch: Any) -> Any:
        """The distillation loss of `model` on a batch in the graph's layout, a scalar with a gradient."""
        names = self.trainable.lowered.graph.inputs
        values: Values = cast("Values", batch) if isinstance(batch, Mapping) else dict(zip(names, (batch,), strict=True))
        wanted = self.objective.wanted
        with load_torch().no_grad():
            original = self.original.run(values, wanted)
        return self.objective(self.trainable.run(values, wanted), original, 0.0)

    def to_graph(self) -> Graph:
        """The graph with the weights that `model` has now."""
        return self.trainable.to_graph()


def distill(
    student: Graph, original: Graph, data: Dataset, options: DistillOptions | None = None, *, held: Dataset | None = None,
    outputs: Sequence[Output] | None = None, time_limit: float | None = None, folder: Path | None = None, resume: bool = False,
    progress: Progress | None = None,
) -> Distilled:
    """Train a student against the original.

    `held`: samples to judge by, a tenth of the data by default.  `outputs`: what is compared of the graphs.  `time_limit`:
    seconds, all that is done here included; the learning rate reaches zero by then.  `folder`: where checkpoints go; with
    `resume` a training that was interrupted goes on from there.

    Raises:
        UsageError: an option out of its domain, too few samples, graphs with other inputs or outputs than each other, or a
            checkpoint of another training.
        KeyboardInterrupt: Ctrl-C; the checkpoint is there.
    """
    options = options or DistillOptions()
    clock = Clock()
    if time_limit is not None and not time_limit > 0:
        raise UsageError(f"time limit of {time_limit:g} seconds: give a time above 0")
    if (student.inputs, student.outputs) != (original.inputs, original.outputs):
        raise UsageError("the student has other inputs or outputs than the original: they must be the same")
    if data.count + (held.count if held is not None else 0) < LEAST:
        raise UsageError(f"{data.count} samples are too few to train on: give at least {LEAST}")
    if held is None:
        data, held = data.split(max(2, min(data.count // 10, 2000)), options.seed)
    if outputs is None:
        outputs = outputs_of(original, labelled=data.labels is not None)
    job = _Job(student, original, data, held, options, tuple(outputs), folder, progress or _silent)
    return job.run(clock, time_limit, resume)


def _silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, eq=False)
class _Job:
    """What `distill` was given, checked."""

    student: Graph
    original: Graph
    data: Dataset
    held: Dataset
    options: DistillOptions
    outputs: tuple[Output, ...]
    folder: Path | None
    progress: Progress

    def run(self, clock: Clock, time_limit: float | None, resume: bool) -> Distilled:
        options = self.options
        student, original = (Lowered(graph, channels_last=True) for graph in (self.student, self.original))
        original.module.requires_grad_(False)
        mark = self._mark(student, original)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        saved = load(self.folder, mark) if resume and self.folder is not None else None
        more = dict(saved["more"]) if saved else {}
        frames: dict[str, Frame] = more.get("frames") or self._frames(student)
        with self._believing() if saved else nullcontext():
            trainable = Trainable(student, frames)
        goal, notes = objective(
            student, original, self.outputs, self.data.first(WATCHED).tensors(np.arange(min(WATCHED, self.data.count))),
            options.temperature, options.features,
        )
        if not goal.wanted and options.loss is None:
            notes.append("nothing that the student and the original have in common can be computed: nothing is trained")
            start = Point(0, 0.0, clock.elapsed, 0.0, 0.0, None)
            return Distilled(self.student, (start,), tuple(notes), clock.elapsed, trainable, original, goal)
        setting = self._setting(trainable, original, goal, clock, time_limit, mark)
        bfloat16 = more["bfloat16"] if saved else _bfloat16(options, goal, setting)
        setting = replace(setting, bfloat16=bfloat16, more={"frames": frames, "bfloat16": bfloat16})
        rate = more["rate"] if saved else self._rate(setting, trainable)
        setting = replace(setting, more={**setting.more, "rate": rate})
        optimizer = self._optimizer(trainable, rate)
        training = Training(setting, State(trainable.module, optimizer, notes=notes), [g["lr"] for g in optimizer.param_groups])
        if saved:
            clock.before = float(saved["elapsed"])
            with self._believing():
                training.take_up(saved)
        training.run()
        return self._result(training.state, trainable, original, goal, clock)

    @contextmanager
    def _believing(self) -> Generator[None]:
        """Work on what a checkpoint holds, whose fields are of their kinds by now.

        Raises:
            UsageError: it does not fit the training.
        """
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            assert self.folder is not None
            raise broken(self.folder / FILE, " ".join(str(error).split())[:200]) from None

    def _mark(self, student: Lowered, original: Lowered) -> str:
        own = replace(self.options, loss=None, optimizer=None)
        weights = {"student": dict(student.module.named_parameters()), "original": dict(original.module.named_parameters())}
        return fingerprint(own, self.outputs, self.data.count, self.held.count, **weights)

    def _frames(self, student: Lowered) -> dict[str, Frame]:
        some = self.data.first(MEASURED)
        return measured(student, some.batches(_batch(student, self.data, 64)))

    def _setting(
        self, trainable: Trainable, original: Lowered, goal: Objective, clock: Clock, time_limit: float | None, mark: str
    ) -> Setting:
        options, batch = self.options, _batch(trainable.lowered, self.data, self.options.batch)
        wanted, judged = goal.wanted, goal.judged
        if options.loss is not None:
            wanted = judged = tuple(dict.fromkeys([*wanted, *self.student.outputs]))
        loss, judge = _losses(goal, options.loss)
        return Setting(
            student=trainable.run, original=original.run, wanted=wanted, judged=judged, loss=loss, judge=judge, data=self.data,
            held=self.held, augment=self._augment(original), schedule=self._schedule(batch, time_limit), clock=clock,
            batch=batch, seed=options.seed, patience=options.patience, bfloat16=False, folder=self.folder, fingerprint=mark,
            more={}, progress=self.progress,
        )

    def _schedule(self, batch: int, time_limit: float | None) -> Schedule:
        per_epoch = max(1, self.data.count // batch)
        if self.options.epochs is not None:
            steps = ceil(self.options.epochs * per_epoch)
        else:
            steps = max(EPOCHS * per_epoch, STEPS) if time_limit is None else ENDLESS
        return Schedule(steps, time_limit, self.options.warm)

    def _augment(self, original: Lowered) -> Augment:
        wanted = self.options.augment
        if isinstance(wanted, Augment):
            return possible(self.original, wanted)
        classes = [o.compared for o in self.outputs if o.kind == "kl" and original.computable(o.compared)]
        if wanted is None or not classes:
            return NOTHING
        torch = load_torch()

        def decide(values: Values) -> Any:
            with torch.no_grad():
                return original.run(values, classes[:1])[classes[0]].argmax(1)

        values = self.data.first(WATCHED).tensors(np.arange(min(WATCHED, self.data.count)))
        return suited(possible(self.original, AUTO), decide, values, torch.Generator().manual_seed(self.options.seed))

    def _rate(self, setting: Setting, trainable: Trainable) -> float:
        options = self.options
        if options.rate is not None or options.optimizer is not None:
            return options.rate or 0.0  # an optimiser of the user's has its own
        self.progress("trying learning rates", 0.0)
        return suited_rate(setting, trainable.module, lambda rate: self._optimizer(trainable, rate))

    def _optimizer(self, trainable: Trainable, rate: float) -> Any:
        parameters = [p for p in trainable.module.parameters() if p.requires_grad]
        if self.options.optimizer is not None:
            return self.options.optimizer(parameters)
        return load_torch().optim.AdamW(parameters, rate, weight_decay=self.options.weight_decay)

    def _result(self, state: State, trainable: Trainable, original: Lowered, goal: Objective, clock: Clock) -> Distilled:
        state.take(state.best)
        graph = trainable.to_graph()
        return Distilled(graph, tuple(state.history), tuple(state.notes), clock.elapsed, trainable, original, goal)


def _losses(goal: Objective, own: UserLoss | None) -> tuple[TrainLoss, Judge]:
    """What is trained on, and what held-out samples are judged by: the user's own where there is one."""

    def loss(student: Values, original: Values, share: float, labels: Any) -> Any:
        return goal(student, original, share) if own is None else own(student, original, labels)

    def judge(student: Values, original: Values, labels: Any) -> tuple[float, float | None]:
        value = goal.distance(student, original) if own is None else own(student, original, labels)
        return float(value), goal.agreement(student, original)

    return loss, judge


def _batch(student: Lowered, data: Dataset, most: int) -> int:
    """At most `most` samples, as many as there is room for."""
    names = [n.output for n in student.graph.nodes if student.computable(n.output)]
    with load_torch().no_grad():
        one = student.run(data.tensors(np.arange(1)), names)
    width = sum(4 * value.numel() for value in one.values())
    return max(1, min(most, data.count, ROOM // max(width, 1)))


def _bfloat16(options: DistillOptions, goal: Objective, setting: Setting) -> bool:
    """Whether steps in bfloat16 are clearly faster here.  Numbers that are to be met exactly are left in float32."""
    if options.precision != "auto" or not goal.outputs or any(o.kind != "kl" for o in goal.outputs):
        return options.precision == "bfloat16"
    torch = load_torch()
    places = np.arange(setting.batch)
    batch, labels = setting.data.tensors(places), setting.data.targets(places)
    times = {False: 0.0, True: 0.0}
    for kind in (False, True, False, True):
        start = process_time()  # of this process: another's load is not the precision's
        with torch.autocast("cpu", torch.bfloat16, enabled=kind):
            with torch.no_grad():
                original = setting.original(batch, setting.wanted)
            student = setting.student(batch, setting.wanted)
        setting.loss(student, original, 0.0, labels).backward()
        # the first round only warms up
        times[kind] = process_time() - start
    return times[True] < FASTER * times[False]
