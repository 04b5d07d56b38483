"""The training loop: step, look at the held-out samples, fall back where the loss is no number, stop, save, be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import Any

from decascade.compression.data.batches import Dataset, Indices
from decascade.compression.distill.augment import Augment
from decascade.compression.distill.objective import joined
from decascade.compression.distill.schedule import Clock, Schedule
from decascade.compression.distill.state import Point, State
from decascade.compression.torch_graph.ops import load_torch

LOOKS = 40
"""Looks at the held-out samples over a training, at most."""
LOOKING = 0.05
"""Share of a limited time that looking may take."""
HELD = 2**26
"""Bytes of the original's values on held-out samples that are kept from one look to the next."""
FALLS = 5
"""Falls back before a training is given up."""
END = 0.5
"""Seconds for putting the best weights into the graph."""
ENDINGS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAVED = 60.0
"""Seconds between checkpoints."""

Values = Mapping[str, Any]
Run = Callable[[Values, Sequence[str]], Values]
Progress = Callable[[str, float], None]
TrainLoss = Callable[[Values, Values, float, Any], Any]
Judge = Callable[[Values, Values, Any], tuple[float, float | None]]
STAGE = "distilling"


@dataclass(frozen=True, eq=False)
class Setting:
    """What a training needs besides its state.

    `student` and `original` run a batch to the tensors named; `loss` compares those of `wanted`, given the share done and the
    labels, `judge` those of `judged`: loss and agreement on held-out samples.
    """

    student: Run
    original: Run
    wanted: Sequence[str]
    judged: Sequence[str]
    loss: TrainLoss
    judge: Judge
    data: Dataset
    held: Dataset
    augment: Augment
    schedule: Schedule
    clock: Clock
    batch: int
    seed: int
    patience: float
    bfloat16: bool
    folder: Path | None
    fingerprint: str
    more: Mapping[str, Any]
    progress: Progress


@dataclass(eq=False)
class Training:
    """A training under way.

    `rates`: the optimiser's own learning rates, of which the schedule takes a share.  `looked`, `stepped`: about the most
    seconds that a look and a step take.  `answers`: what the original says of held-out batches.
    """

    setting: Setting
    state: State
    rates: list[float] = field(default_factory=list[float])
    losses: list[float] = field(default_factory=list[float])
    looked: float = 0.0
    stepped: float = 0.0
    answers: list[Values] | None = None
    saved: float = field(default_factory=monotonic)
    epoch: tuple[int, list[Indices]] = field(default_factory=lambda: (-1, []))

    def take_up(self, content: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written."""
        self.state.restore(content)
        self.losses = list(content["more"]["losses"])

    def run(self) -> None:
        """Train to the end of the schedule; the best weights are then in `state.best`.

        Raises:
            KeyboardInterrupt: asked to stop; the checkpoint is written by then.
        """
        state, setting = self.state, self.setting
        self.rates = self.rates or [group["lr"] for group in state.optimizer.param_groups]
        if not state.history:
            self._look(0.0)
        with _interruption() as asked:
            while not self._finished(share := self._share()):
                before = setting.clock.elapsed
                loss = self._step(share)
                self.stepped = max(0.9 * self.stepped, setting.clock.elapsed - before)
                if not isfinite(loss):
                    self._fall(loss)
                    continue
                state.follow()
                self.losses.append(loss)
                self._after(asked())
        self._end()

    def walk(self, steps: int, until: float | None = None) -> None:
        """So many steps at the highest rate, and nothing else; none begins after `until` seconds on the clock."""
        for _ in range(steps):
            if until is not None and self.setting.clock.elapsed > until:
                return
            self._step(self.setting.schedule.warm)
            self.state.step += 1

    def _share(self) -> float:
        """How much of the training is done.  A limited time must leave room for one more step and two looks at the end."""
        reserve = self.stepped + 2.5 * self.looked + END
        return self.setting.schedule.share(self.state.step, self.setting.clock.elapsed, reserve)

    def _finished(self, share: float) -> bool:
        state, setting = self.state, self.setting
        if share >= 1 or state.falls > FALLS:
            return True
        best = min(state.history, key=lambda point: point.held)
        if state.history[-1].share - best.share < setting.patience or best.share == 0:
            return False
        state.notes.append(f"stopped after {share:.0%} of the training: nothing was better since {best.share:.0%}")
        return True

    def _step(self, share: float) -> float:
        """One step on the next batch; its loss."""
        torch, setting, optimizer = load_torch(), self.setting, self.state.optimizer
        places = self._places()
        generator = torch.Generator().manual_seed(setting.seed * 1_000_003 + self.state.step)
        batch = setting.augment(setting.data.tensors(places), generator)
        labels = setting.data.targets(places)
        with torch.autocast("cpu", torch.bfloat16) if setting.bfloat16 else nullcontext():
            with torch.no_grad():
                original = setting.original(batch, setting.wanted)
            student = setting.student(batch, setting.wanted)
        loss = setting.loss(student, original, share, labels)
        value = float(loss.detach())
        if not isfinite(value):
            return value
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.state.factor * setting.schedule.rate(share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value

    def _places(self) -> Indices:
        setting, step = self.setting, self.state.step
        per_epoch = max(1, setting.data.count // setting.batch)
        number, index = divmod(step, per_epoch)
        if self.epoch[0] != number:
            self.epoch = number, setting.data.shuffled(setting.batch, setting.seed, number)
        return self.epoch[1][index]

    def _fall(self, loss: float) -> None:
        state = self.state
        at, back = state.step, state.history[-1].step
        state.fall_back()
        state.step = back
        self.losses.clear()
        given_up = f"; this is the {FALLS + 1}th time, so the training ends here" if state.falls > FALLS else ""
        state.notes.append(f"the loss became {loss} at step {at}: back to step {back} with half the learning rate{given_up}")

    def _after(self, asked: bool) -> None:
        """What is due after a step: a look, a checkpoint, an end that was asked for."""
        setting, state = self.setting, self.state
        share = self._share()
        if share - state.history[-1].share >= self._pause() and share < 1:
            self._look(share)
        setting.progress(STAGE, share)
        if setting.folder is not None and (asked or monotonic() - self.saved > SAVED):
            self._save()
        if asked:
            raise KeyboardInterrupt

    def _pause(self) -> float:
        """The share between two looks: by steps alone where no time limits the training, so that it can be repeated."""
        seconds = self.setting.schedule.seconds
        return max(1 / LOOKS, 0.0 if seconds is None else self.looked / (LOOKING * seconds))

    def _look(self, share: float) -> None:
        """Judge the averaged weights on the held-out samples; keep them if they are the best so far."""
        state, start = self.state, self.setting.clock.elapsed
        now = state.weights()
        state.take(state.average)
        held, agreement = self.judged()
        if all(held < point.held for point in state.history):
            state.best = state.weights()
        state.take(now)
        loss = sum(self.losses) / len(self.losses) if self.losses else held
        self.losses.clear()
        state.history.append(Point(state.step, share, self.setting.clock.elapsed, loss, held, agreement))
        state.keep()
        self.looked = max(0.5 * self.looked, self.setting.clock.elapsed - start)

    def _end(self) -> None:
        """The last looks: at the average, and at the weights themselves."""
        state = self.state
        if state.history[-1].step < state.step:
            self._look(1.0)
            plain = state.weights()
            held, agreement = self.judged()
            if all(held < point.held for point in state.history):
                state.best = plain
                state.history[-1] = Point(state.step, 1.0, self.setting.clock.elapsed, state.history[-1].loss, held, agreement)
        self._save() if self.setting.folder is not None else None
        self.setting.progress(STAGE, 1.0)

    def judged(self) -> tuple[float, float | None]:
        """Loss and agreement of the module's weights on the held-out samples, in float32."""
        setting = self.setting
        results = list[tuple[float, float | None, int]]()
        with load_torch().no_grad():
            for number, places in enumerate(setting.held.places(setting.batch)):
                batch = setting.held.tensors(places)
                student, labels = setting.student(batch, setting.judged), setting.held.targets(places)
                found = setting.judge(student, self._answers(number, batch), labels)
                results.append((*found, len(places)))
        return joined(results)

    def _answers(self, number: int, batch: Values) -> Values:
        """What the original says of a held-out batch, kept where it is little."""
        answers = self.answers
        if answers is not None and number < len(answers):
            return answers[number]
        found = self.setting.original(batch, self.setting.judged)
        kept = [*(answers or []), found]
        if number == len(kept) - 1 and sum(v.numel() * v.element_size() for one in kept for v in one.values()) <= HELD:
            self.answers = kept
        return found

    def _save(self) -> None:
        setting = self.setting
        assert setting.folder is not None
        try:
            self.state.save(setting.folder, setting.clock.elapsed, setting.fingerprint, {**setting.more, "losses": self.losses})
        except OSError as error:  # the training is worth more than its checkpoint
            told = error.strerror or error
            note = f"no checkpoint could be written to {setting.folder} ({told}): the training went on without"
            self.state.notes += [] if note in self.state.notes else [note]
        self.saved = monotonic()


@contextmanager
def _interruption() -> Generator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or the process was asked to end in another way that it heeds (see `cli.shell`).  The first
    time is only noted, so that no step is torn; the second time is raised."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = list[int]()

    def note(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    heeded = [s for s in ENDINGS if s == signal.SIGINT or signal.getsignal(s) is signal.default_int_handler]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: bool(pressed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
