"""Ascents of single neurons, many at once: what the sums that `ascent` pushes leave over.

Every sample of a batch carries as many neurons as have receptive fields apart, each pushed by gradients of its own (Adam,
Kingma and Ba 2015, whose steps do not depend on a neuron's scale).  Once a neuron is witnessed, the next open one of its
channel takes its place, and begins with the part of the picture that did it, moved along: what shows one position mostly
shows the next.  Neurons that few are left of are begun from many pictures at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

import numpy as np

from decascade.bounds.adjoint import Form
from decascade.bounds.forward import Values
from decascade.bounds.geometry import part
from decascade.bounds.observations import ActivationState
from decascade.bounds.problem import Limits
from decascade.bounds.state import ProofState
from decascade.bounds.witness.gradient import gradient
from decascade.bounds.witness.restarts import Key, Near
from decascade.bounds.witness.search import WitnessSearch
from decascade.ir.graph import Graph
from decascade.typing import F64, Ints

Place = tuple[int, ...]
FIRST, LAST = 0.3, 0.02
"""Steps of a neuron's first and last move, as shares of the box."""
BETA, SQUARES = 0.9, 0.99
"""How long Adam remembers gradients and their squares."""
SHORT, LONGEST = 16, 128
"""Moves that a neuron is given in the first round, doubled from round to round up to the longest."""
SEEDS = 3
"""Neurons of a channel that a round begins with; the others follow where these are witnessed."""
STARTS, LONG = 8, 24
"""Pictures that each neuron of a channel without a witness begins with, and its moves."""
ANEW = 0.25
"""Share of those starts that are anywhere, once it is known what came near."""
MOST_REST = 3
"""A channel of which r rounds in a row decided nothing is left out for 2^r − 1 rounds, r up to this."""
CROWD = 4
"""Targets that a sample pursues in the first round, wherever they are; half as many in each that follows."""
APART = 0.7
"""Receptive fields that overlap by less than the rest, per axis, do not hinder each other."""


class FieldAxis(NamedTuple):
    """A receptive field along one axis, in positions of the input: how many of these a step of the neuron's position is, where
    the field begins for position 0, and its size."""

    step: int
    offset: int
    size: int


@dataclass(frozen=True)
class Target:
    """One neuron, pushed up (+1) or down (−1) into a regime that it was not seen in; `place` is its class of positions, `spot`
    a position of it."""

    channel: int
    place: Place
    spot: Place
    regime: int
    direction: int


def push_neurons(state: ProofState, search: WitnessSearch, until: float, rounds: range) -> int:
    """Rounds of ascents over the activations with open neurons, while more than `until` seconds are left; round n takes 2^n
    times the moves and starts of the first, number 0.  How many neurons they decided (channels × classes)."""
    fruitless, total = dict[tuple[str, int], int](), 0
    for n in rounds:
        steps = min(SHORT << n, LONGEST)
        for name, s in state.observations.activations.items():
            queue = [t for t in seeds(state, s, search.rng)
                     if n % (1 << min(fruitless.get((name, t.channel), 0), MOST_REST)) == 0]
            if not queue:
                continue
            if state.left() < until:
                return total
            state.on_progress(f"looking for witnesses of {name}", n / (n + 3))
            before = _per_channel(state, s)
            NeuronAscent.of(state, search, s, queue, max(CROWD >> n, 1), 1 << n).go(steps, until)
            gained = before - _per_channel(state, s)
            total += int(gained.sum())
            for c in {t.channel for t in queue}:
                fruitless[name, c] = 0 if gained[c] else fruitless.get((name, c), 0) + 1
    return total


def push_unwitnessed(state: ProofState, search: WitnessSearch, until: float) -> None:
    """A neuron of each channel that has no witness yet, from several pictures; first in the layers where that was done least
    often, as the time may be up before the last.  What came nearest is where later rounds start."""
    for name, s in sorted(state.observations.activations.items(), key=lambda item: search.rounds.get(item[0], 0)):
        queue = list({(t.channel, t.direction): t for t in seeds(state, s, search.rng)
                      if not s.unstable_channels[t.channel]}.values())
        search.restarts.keep(name, {(name, t.channel, t.direction) for t in queue})
        if queue and state.left() > until:
            state.on_progress(f"looking for witnesses of {name}", 0.0)
            NeuronAscent.of(state, search, s, queue, 1, STARTS, successors=False).go(LONG, until)
            if state.left() > until:
                search.rounds[name] = search.rounds.get(name, 0) + 1


def _per_channel(state: ProofState, s: ActivationState) -> Ints:
    return state.open_by_class(s).sum(axis=1)


def targets(state: ProofState, s: ActivationState) -> list[Target]:
    """What the open neurons may be pushed to, in any order."""
    undecided, found, last = state.open(s), list[Target](), len(s.pieces) - 1
    spots = dict(zip(np.ndindex(undecided.shape[1:]), s.spots, strict=True))
    for c, *at in np.argwhere(undecided).tolist():
        place = tuple(at)
        shown: list[int] = np.flatnonzero(s.seen[(slice(None), c, *place)]).tolist()
        for direction, beside in ((1, max(shown, default=-1)), (-1, min(shown, default=last + 1))):
            if 0 <= beside + direction <= last:
                found.append(Target(c, place, spots[place], beside + direction, direction))
    return found


def seeds(state: ProofState, s: ActivationState, rng: np.random.Generator) -> list[Target]:
    """Some targets of every channel, those first that stand for many positions as often as not."""
    every, count = targets(state, s), dict[tuple[int, int], int]()
    weights = np.array([s.weight[t.place] for t in every], np.float64)
    # a sample without replacement in proportion to the weights (Efraimidis and Spirakis 2006)
    order: list[int] = np.argsort(-np.log(rng.random(len(every))) / weights).tolist()
    found = list[Target]()
    for i in order:
        key = every[i].channel, every[i].direction
        count[key] = count.get(key, 0) + 1
        if count[key] <= SEEDS:
            found.append(every[i])
    return found


@dataclass(eq=False)
class NeuronAscent:
    """Samples x (C, *S, N) per input, their moments and rates, and the targets that each pursues with their ages.

    `fields`: per input the receptive field of a neuron in the middle; None where positions of the input have nothing to do with
    those of the tensor.  `successors`: whether other neurons of a channel take the place of one that was reached.  `there`: the
    samples and targets that have arrived.  `height`: of samples and targets, how far it is up.
    """

    state: ProofState
    search: WitnessSearch
    s: ActivationState
    ahead: Graph
    queue: list[Target]
    fields: Mapping[str, tuple[FieldAxis, ...] | None]
    x: dict[str, Values]
    rest: Mapping[str, Values]
    crowd: int
    successors: bool = True
    mean: dict[str, Values] = field(default_factory=dict[str, Values])
    square: dict[str, Values] = field(default_factory=dict[str, Values])
    rate: dict[str, Values] = field(default_factory=dict[str, Values])
    aims: list[dict[Target, int]] = field(default_factory=list[dict[Target, int]])
    there: set[tuple[int, Target]] = field(default_factory=set[tuple[int, Target]])
    height: dict[tuple[int, Target], float] = field(default_factory=dict[tuple[int, Target], float])

    @staticmethod
    def of(
        state: ProofState, search: WitnessSearch, s: ActivationState, queue: list[Target], crowd: int, copies: int,
        successors: bool = True,
    ) -> NeuronAscent:
        """Each target of the queue from so many starts, no more than `crowd` of them in a sample whose fields overlap."""
        ahead, samples = part(state.problem.graph, [s.tensor]), min(copies * -(-len(queue) // crowd), search.widest)
        start = state.problem.limits.at(lambda shape: search.rng.integers(0, 2, (*shape, samples)).astype(np.float64))
        x = {n: start[n] for n in ahead.inputs}
        rest = {n: v for n, v in start.items() if n not in x}
        fields = _receptive_fields(state.problem.limits, s, ahead)
        found = NeuronAscent(state, search, s, ahead, queue, fields, x, rest, crowd, successors)
        for name, v in x.items():
            found.mean[name], found.square[name] = np.zeros_like(v), np.zeros_like(v)
            found.rate[name] = np.full((1, *v.shape[1:]), FIRST, np.float32)
        found.aims = [{} for _ in range(samples)]
        return found

    def go(self, steps: int, until: float) -> None:
        """Until all targets are reached or have had their steps."""
        decay = np.float32((LAST / FIRST) ** (1 / steps))
        self._fill()
        while any(self.aims):
            if self.state.left() < until:
                return
            seen, before = self.state.observations.watcher({**self.rest, **self.x}), self.x
            forms = gradient(self.ahead, self.x, self.s.tensor, self._seed, seen)
            self.x = {n: self._moved(n, forms[n]) if n in forms else v for n, v in self.x.items()}
            for rate in self.rate.values():
                rate *= decay
            self._turn_over(before, steps)

    def _seed(self, z: Values) -> Form:
        spots = np.array([t.spot for aims in self.aims for t in aims], np.int64).reshape(sum(map(len, self.aims)), z.ndim - 2)
        low, high = spots.min(axis=0), spots.max(axis=0) + 1
        found = np.zeros((len(z), *(high - low), z.shape[-1]), z.dtype)
        self.there, self.height = set(), {}
        for n, aims in enumerate(self.aims):
            for t in aims:
                found[(t.channel, *(np.array(t.spot, np.int64) - low), n)] = t.direction / self.s.margin[t.channel]
                self.height[n, t] = t.direction * float(z[(t.channel, *t.spot, n)])
                if self.s.pieces[t.regime].lo < z[(t.channel, *t.spot, n)] < self.s.pieces[t.regime].hi:
                    self.there.add((n, t))
        return Form(found, tuple(zip(low.tolist(), high.tolist(), strict=True)))

    def _moved(self, name: str, form: Form) -> Values:
        """A step of Adam, kept within the box; what no target sees stays as it is."""
        pull = np.zeros_like(self.x[name])
        pull[form.where] = form.coefficients
        pull /= np.abs(pull).max(axis=tuple(range(pull.ndim - 1)), keepdims=True) + np.float32(1e-30)
        mean, square = self.mean[name], self.square[name]
        mean += np.float32(1 - BETA) * (pull - mean)
        square += np.float32(1 - SQUARES) * (pull * pull - square)
        limits = self.state.problem.limits
        width = limits.hi[name] - limits.lo[name]
        step = self.rate[name] * mean / (np.sqrt(square) + np.float32(1e-6)) * width
        return limits.keep({name: self.x[name] + step})[name]

    def _turn_over(self, before: Mapping[str, Values], steps: int) -> None:
        """What was reached passes its picture on to the others of its channel; what took too long is given up."""
        unstable, freed = self.s.unstable, set[int]()
        done = dict[tuple[int, int], list[tuple[int, Target]]]()
        for n, aims in enumerate(self.aims):
            for t in list(aims):
                aims[t] += 1
                if unstable[(t.channel, *t.place)]:
                    done.setdefault((t.channel, t.regime), []).append((n, t))
                elif aims[t] >= steps and not self.successors:
                    picture = {k: v[..., n].copy() for k, v in before.items()}
                    self.search.restarts.offer(self._key(t), Near(self.height[n, t], t.spot, picture))
                if unstable[(t.channel, *t.place)] or aims[t] >= steps:
                    del aims[t]
                    freed.add(n)
        if done and self.successors:
            waiting = _open_by_channel(self.state, self.s, self.aims)
            idle = [n for n, aims in enumerate(self.aims) if not aims]
            for key, reached in done.items():
                donors = [d for d in reached if d in self.there] or reached
                for n in dict.fromkeys([*(n for n, _ in reached), *idle]):
                    self._succeed(n, next((d for d in donors if d[0] == n), donors[0]), waiting.get(key, []), before)
        if freed and self.queue:
            self._fill()

    def _succeed(self, n: int, donor: tuple[int, Target], waiting: list[Target], before: Mapping[str, Values]) -> None:
        """The open neuron nearest to one that was reached, if it has room in sample n, begins with what did it."""
        m, done = donor
        near = sorted(range(len(waiting)), key=lambda i: _distance(waiting[i].spot, done.spot))
        for i in near:
            if self._room(n, waiting[i]):
                self._begin(n, waiting.pop(i), {k: v[..., m] for k, v in before.items()}, done.spot)
                return

    def _fill(self) -> None:
        """Targets of the queue into samples with room; one more start for each where there are more samples than targets."""
        waiting, self.queue = self.queue, []
        for t in waiting:
            n = next((n for n in range(len(self.aims)) if self._room(n, t)), None)
            if n is None:
                self.queue.append(t)
            else:
                self._begin(n, t, *self._start(t))
        idle = [n for n, aims in enumerate(self.aims) if not aims]
        if waiting and not self.queue and len(idle) < len(self.aims):
            for n, t in zip(idle, cycle(waiting), strict=False):
                self._begin(n, t, *self._start(t))

    def _room(self, n: int, new: Target) -> bool:
        """Whether sample n has few targets, or all of them have receptive fields apart from the new one's."""
        return new not in self.aims[n] and (len(self.aims[n]) < self.crowd or self._alone(n, new))

    def _alone(self, n: int, new: Target) -> bool:
        return all(self._apart(t.spot, new.spot) for t in self.aims[n])

    def _apart(self, a: Place, b: Place) -> bool:
        return all(
            axes is not None and any(abs(p - q) * x.step >= APART * x.size for p, q, x in zip(a, b, axes, strict=True))
            for axes in self.fields.values()
        )

    def _begin(self, n: int, t: Target, donor: Mapping[str, Values] | None, spot: Place) -> None:
        """A target of sample n; its part of the picture from a donor in which a neuron at `spot` is where it is wanted, or as
        it is.  Where others share its receptive field it joins them in what they have come to."""
        alone = self._alone(n, t)
        self.aims[n][t] = 0
        if not alone:
            return
        for name, axes in self.fields.items():
            shape = self.x[name].shape[1:-1]
            if axes is None:
                here, there = (slice(None),) * (len(shape) + 1), (slice(None),) * (len(shape) + 1)
            else:
                here, there = _windows(axes, t.spot, spot, shape)
            if donor is not None:
                self.x[name][(*here, n)] = donor[name][there]
            full = _windows(axes, t.spot, t.spot, shape)[0] if axes is not None else here
            self.mean[name][(*full, n)] = self.square[name][(*full, n)] = 0
            self.rate[name][(slice(None), *full[1:], n)] = FIRST

    def _key(self, t: Target) -> Key:
        return self.s.node.name, t.channel, t.direction

    def _start(self, t: Target) -> tuple[Mapping[str, Values] | None, Place]:
        """What came near, perturbed; a picture in which the channel was where it is wanted, in half of all cases and where
        there is one; one that was kept for another; a random one, of corners, plain, or anything between."""
        kept, limits, rng = self.state.observations.kept, self.state.problem.limits, self.search.rng
        near = self.search.restarts.start(self._key(t), limits, rng)
        if near is not None and rng.random() >= ANEW:
            return near
        sample = int(self.s.sample[t.regime, t.channel])
        dice = rng.random()
        if sample >= 0 and dice < 0.5:
            return kept[sample], tuple(self.s.position[t.regime, t.channel].tolist())
        if kept and dice < 0.65:
            return kept[int(rng.integers(len(kept)))], t.spot

        def share(shape: Place) -> F64:
            if dice < 0.8:
                return rng.random((*shape, 1))
            return np.full((*shape, 1), 0.5) if dice < 0.9 else rng.integers(0, 2, (*shape, 1)).astype(np.float64)

        return {name: x[..., 0] for name, x in limits.at(share).items()}, t.spot


def _open_by_channel(
    state: ProofState, s: ActivationState, aims: list[dict[Target, int]],
) -> dict[tuple[int, int], list[Target]]:
    busy, found = {t for a in aims for t in a}, dict[tuple[int, int], list[Target]]()
    for t in targets(state, s):
        if t not in busy:
            found.setdefault((t.channel, t.regime), []).append(t)
    return found


def _distance(a: Place, b: Place) -> int:
    return sum(abs(p - q) for p, q in zip(a, b, strict=True))


def _receptive_fields(limits: Limits, s: ActivationState, ahead: Graph) -> dict[str, tuple[FieldAxis, ...] | None]:
    """Per input the receptive field of the neuron in the middle."""
    middle = limits.middle()
    spot = tuple(len(label) // 2 for label in s.labels)
    window = tuple((p, p + 1) for p in spot)

    def seed(z: Values) -> Form:
        return Form(np.ones((len(z), *(1,) * len(spot), 1), z.dtype), window)

    found = dict[str, tuple[FieldAxis, ...] | None]()
    forms = gradient(ahead, {n: middle[n] for n in ahead.inputs}, s.tensor, seed, lambda _name, _x: None)
    for name in ahead.inputs:
        size = middle[name].shape[1:-1]
        if name not in forms or len(size) != len(spot) or not spot:
            found[name] = None
            continue
        steps = [max(m // len(label), 1) for m, label in zip(size, s.labels, strict=True)]
        window = forms[name].window
        found[name] = tuple(FieldAxis(f, a - p * f, b - a) for f, p, (a, b) in zip(steps, spot, window, strict=True))
    return found


def _windows(
    axes: tuple[FieldAxis, ...], spot: Place, donor: Place, shape: Place
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The receptive field at `spot`, and that at a donor's, both as far as both are inside."""
    here, there = list[slice](), list[slice]()
    for (f, offset, size), p, q, n in zip(axes, spot, donor, shape, strict=True):
        a, b, move = p * f + offset, p * f + offset + size, (q - p) * f
        a, b = max(a, 0, -move), min(b, n, n - move)
        b = max(a, b)
        here.append(slice(a, b))
        there.append(slice(a + move, b + move))
    return (slice(None), *here), (slice(None), *there)


__all__ = ["NeuronAscent", "Target", "push_neurons", "push_unwitnessed", "seeds", "targets"]
