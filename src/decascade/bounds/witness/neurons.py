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

import numpy as np
from numpy.typing import NDArray

from decascade.bounds.adjoint import Form
from decascade.bounds.forward import Values
from decascade.bounds.geometry import part
from decascade.bounds.observations import Seen
from decascade.bounds.state import Work
from decascade.bounds.witness.gradient import gradient
from decascade.bounds.witness.restarts import Key, Near
from decascade.ir.graph import Graph

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
"""A channel that was in vain r times in a row is left out for 2^r − 1 rounds, r up to this."""
CROWD = 4
"""Targets that a sample pursues in the first round, wherever they are; half as many in each that follows."""
APART = 0.7
"""Receptive fields that overlap by less than the rest, per axis, do not hinder each other."""


@dataclass(frozen=True)
class Target:
    """One neuron, pushed up (+1) or down (−1) into a regime that it was not seen in; `place` is its class of positions, `spot`
    a position of it."""

    channel: int
    place: Place
    spot: Place
    regime: int
    direction: int


def chase(work: Work, until: float, rounds: range) -> int:
    """Rounds of ascents over the activations with open neurons, while more than `until` seconds are left; round n takes 2^n
    times the moves and starts of the first, number 0.  How many neurons they decided (channels × classes)."""
    vain, total = dict[tuple[str, int], int](), 0
    for n in rounds:
        steps = min(SHORT << n, LONGEST)
        for name, s in work.seen.items():
            queue = [t for t in seeds(work, s) if n % (1 << min(vain.get((name, t.channel), 0), MOST_REST)) == 0]
            if not queue:
                continue
            if work.left() < until:
                return total
            work.progress(f"looking for witnesses of {name}", n / (n + 3))
            before = _per_channel(work, s)
            Chase.of(work, s, queue, max(CROWD >> n, 1), 1 << n).go(steps, until)
            gained = before - _per_channel(work, s)
            total += int(gained.sum())
            for c in {t.channel for t in queue}:
                vain[name, c] = 0 if gained[c] else vain.get((name, c), 0) + 1
    return total


def strangers(work: Work, until: float) -> None:
    """A neuron of each channel that has no witness yet, from several pictures; first in the layers where that was done least
    often, as the time may be up before the last.  What came nearest is where later rounds begin."""
    for name, s in sorted(work.seen.items(), key=lambda item: work.rounds.get(item[0], 0)):
        queue = list({(t.channel, t.direction): t for t in seeds(work, s) if not s.unstable_channels[t.channel]}.values())
        work.kicks.keep(name, {(name, t.channel, t.direction) for t in queue})
        if queue and work.left() > until:
            work.progress(f"looking for witnesses of {name}", 0.0)
            Chase.of(work, s, queue, 1, STARTS, heirs=False).go(LONG, until)
            if work.left() > until:
                work.rounds[name] = work.rounds.get(name, 0) + 1


def _per_channel(work: Work, s: Seen) -> NDArray[np.int64]:
    return work.open(s).reshape(len(s.seen[0]), -1).sum(axis=1)


def targets(work: Work, s: Seen) -> list[Target]:
    """What the open neurons may be pushed to, in any order."""
    undecided, found, last = work.open(s), list[Target](), len(s.pieces) - 1
    spots = dict(zip(np.ndindex(undecided.shape[1:]), s.spots, strict=True))
    for c, *at in np.argwhere(undecided).tolist():
        place = tuple(at)
        shown: list[int] = np.flatnonzero(s.seen[(slice(None), c, *place)]).tolist()
        for direction, beside in ((1, max(shown, default=-1)), (-1, min(shown, default=last + 1))):
            if 0 <= beside + direction <= last:
                found.append(Target(c, place, spots[place], beside + direction, direction))
    return found


def seeds(work: Work, s: Seen) -> list[Target]:
    """Some targets of every channel, those first that stand for many positions as often as not."""
    every, count = targets(work, s), dict[tuple[int, int], int]()
    weights = np.array([s.weight[t.place] for t in every], np.float64)
    # a sample without replacement in proportion to the weights (Efraimidis and Spirakis 2006)
    order: list[int] = np.argsort(-np.log(work.rng.random(len(every))) / weights).tolist()
    found = list[Target]()
    for i in order:
        key = every[i].channel, every[i].direction
        count[key] = count.get(key, 0) + 1
        if count[key] <= SEEDS:
            found.append(every[i])
    return found


@dataclass(eq=False)
class Chase:
    """Samples x (C, *S, N) per input, their moments and rates, and the targets that each pursues with their ages.

    `reach`: per input the receptive field of a neuron in the middle and its distance from the neuron, in positions of the
    input; None where positions of the input have nothing to do with those of the tensor.  `there`: the samples and targets
    that have arrived.  `height`: of samples and targets, how far it is up.
    """

    work: Work
    s: Seen
    ahead: Graph
    queue: list[Target]
    reach: Mapping[str, tuple[tuple[int, int, int], ...] | None]
    x: dict[str, Values]
    rest: Mapping[str, Values]
    crowd: int
    heirs: bool = True
    mean: dict[str, Values] = field(default_factory=dict[str, Values])
    square: dict[str, Values] = field(default_factory=dict[str, Values])
    rate: dict[str, Values] = field(default_factory=dict[str, Values])
    aims: list[dict[Target, int]] = field(default_factory=list[dict[Target, int]])
    there: set[tuple[int, Target]] = field(default_factory=set[tuple[int, Target]])
    height: dict[tuple[int, Target], float] = field(default_factory=dict[tuple[int, Target], float])

    @staticmethod
    def of(work: Work, s: Seen, queue: list[Target], crowd: int, copies: int, heirs: bool = True) -> Chase:
        ahead, samples = part(work.graph, [s.tensor]), min(copies * -(-len(queue) // crowd), work.widest)
        start = work.limits.at(lambda shape: work.rng.integers(0, 2, (*shape, samples)).astype(np.float64))
        x = {n: start[n] for n in ahead.inputs}
        rest = {n: v for n, v in start.items() if n not in x}
        found = Chase(work, s, ahead, queue, _reach(work, s, ahead), x, rest, crowd, heirs)
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
            if self.work.left() < until:
                return
            seen, before = self.work.sightings.watcher({**self.rest, **self.x}), self.x
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
        width = self.work.limits.hi[name] - self.work.limits.lo[name]
        step = self.rate[name] * mean / (np.sqrt(square) + np.float32(1e-6)) * width
        return self.work.limits.keep({name: self.x[name] + step})[name]

    def _turn_over(self, before: Mapping[str, Values], steps: int) -> None:
        """What was reached passes its picture on to the others of its channel; what took too long is given up."""
        unstable, freed = self.s.unstable, set[int]()
        done = dict[tuple[int, int], list[tuple[int, Target]]]()
        for n, aims in enumerate(self.aims):
            for t in list(aims):
                aims[t] += 1
                if unstable[(t.channel, *t.place)]:
                    done.setdefault((t.channel, t.regime), []).append((n, t))
                elif aims[t] >= steps and not self.heirs:
                    picture = {k: v[..., n].copy() for k, v in before.items()}
                    self.work.kicks.offer(self._key(t), Near(self.height[n, t], t.spot, picture))
                if unstable[(t.channel, *t.place)] or aims[t] >= steps:
                    del aims[t]
                    freed.add(n)
        if done and self.heirs:
            heirs = _open_by_channel(self.work, self.s, self.aims)
            idle = [n for n, aims in enumerate(self.aims) if not aims]
            for key, reached in done.items():
                donors = [d for d in reached if d in self.there] or reached
                for n in dict.fromkeys([*(n for n, _ in reached), *idle]):
                    self._inherit(n, next((d for d in donors if d[0] == n), donors[0]), heirs.get(key, []), before)
        if freed and self.queue:
            self._fill()

    def _inherit(self, n: int, donor: tuple[int, Target], heirs: list[Target], before: Mapping[str, Values]) -> None:
        """The open neuron nearest to one that was reached, if it has room in sample n, begins with what did it."""
        m, done = donor
        near = sorted(range(len(heirs)), key=lambda i: sum(abs(p - q) for p, q in zip(heirs[i].spot, done.spot, strict=True)))
        for i in near:
            if self._room(n, heirs[i]):
                self._begin(n, heirs.pop(i), {k: v[..., m] for k, v in before.items()}, done.spot)
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
            reach is not None and any(abs(p - q) * f >= APART * size for p, q, (f, _, size) in zip(a, b, reach, strict=True))
            for reach in self.reach.values()
        )

    def _begin(self, n: int, t: Target, donor: Mapping[str, Values] | None, spot: Place) -> None:
        """A target of sample n; its part of the picture from a donor in which a neuron at `spot` is where it is wanted, or as
        it is.  Where others share its receptive field it joins them in what they have come to."""
        alone = self._alone(n, t)
        self.aims[n][t] = 0
        if not alone:
            return
        for name, reach in self.reach.items():
            shape = self.x[name].shape[1:-1]
            if reach is None:
                here, there = (slice(None),) * (len(shape) + 1), (slice(None),) * (len(shape) + 1)
            else:
                here, there = _windows(reach, t.spot, spot, shape)
            if donor is not None:
                self.x[name][(*here, n)] = donor[name][there]
            full = _windows(reach, t.spot, t.spot, shape)[0] if reach is not None else here
            self.mean[name][(*full, n)] = self.square[name][(*full, n)] = 0
            self.rate[name][(slice(None), *full[1:], n)] = FIRST

    def _key(self, t: Target) -> Key:
        return self.s.node.name, t.channel, t.direction

    def _start(self, t: Target) -> tuple[Mapping[str, Values] | None, Place]:
        """What came near, and was kicked; a picture in which the channel was where it is wanted, in half of all cases and where
        there is one; one that was kept for another; a random one, of corners, plain, or anything between."""
        sightings, rng = self.work.sightings, self.work.rng
        near = self.work.kicks.start(self._key(t), self.work.limits, rng)
        if near is not None and rng.random() >= ANEW:
            return near
        sample = int(self.s.sample[t.regime, t.channel])
        dice = rng.random()
        if sample >= 0 and dice < 0.5:
            return sightings.kept[sample], tuple(self.s.position[t.regime, t.channel].tolist())
        if sightings.kept and dice < 0.65:
            return sightings.kept[int(rng.integers(len(sightings.kept)))], t.spot

        def share(shape: Place) -> NDArray[np.float64]:
            if dice < 0.8:
                return rng.random((*shape, 1))
            return np.full((*shape, 1), 0.5) if dice < 0.9 else rng.integers(0, 2, (*shape, 1)).astype(np.float64)

        return {name: x[..., 0] for name, x in self.work.limits.at(share).items()}, t.spot


def _open_by_channel(work: Work, s: Seen, aims: list[dict[Target, int]]) -> dict[tuple[int, int], list[Target]]:
    busy, found = {t for a in aims for t in a}, dict[tuple[int, int], list[Target]]()
    for t in targets(work, s):
        if t not in busy:
            found.setdefault((t.channel, t.regime), []).append(t)
    return found


def _reach(work: Work, s: Seen, ahead: Graph) -> dict[str, tuple[tuple[int, int, int], ...] | None]:
    """Per input and axis: input positions per position, where the receptive field begins as seen from there, and its size."""
    middle = work.limits.at(lambda shape: np.full((*shape, 1), 0.5))
    spot = tuple(len(label) // 2 for label in s.labels)
    window = tuple((p, p + 1) for p in spot)

    def seed(z: Values) -> Form:
        return Form(np.ones((len(z), *(1,) * len(spot), 1), z.dtype), window)

    found = dict[str, tuple[tuple[int, int, int], ...] | None]()
    forms = gradient(ahead, {n: middle[n] for n in ahead.inputs}, s.tensor, seed, lambda _name, _x: None)
    for name in ahead.inputs:
        size = middle[name].shape[1:-1]
        if name not in forms or len(size) != len(spot) or not spot:
            found[name] = None
            continue
        scales = [max(m // len(label), 1) for m, label in zip(size, s.labels, strict=True)]
        found[name] = tuple((f, a - p * f, b - a) for f, p, (a, b) in zip(scales, spot, forms[name].window, strict=True))
    return found


def _windows(
    reach: tuple[tuple[int, int, int], ...], spot: Place, donor: Place, shape: Place
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The receptive field at `spot`, and that at a donor's, both as far as both are inside."""
    here, there = list[slice](), list[slice]()
    for (f, offset, size), p, q, n in zip(reach, spot, donor, shape, strict=True):
        a, b, move = p * f + offset, p * f + offset + size, (q - p) * f
        a, b = max(a, 0, -move), min(b, n, n - move)
        b = max(a, b)
        here.append(slice(a, b))
        there.append(slice(a + move, b + move))
    return (slice(None), *here), (slice(None), *there)


__all__ = ["Chase", "Target", "chase", "seeds", "strangers", "targets"]
