"""Inputs inside a box, made to break what a certificate says, and the count of values that do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter, process_time

import numpy as np

from decascade.bounds.adjoint import Form
from decascade.bounds.box import Box
from decascade.bounds.certificate import Certificate
from decascade.bounds.driver import certificate, decide, warmed_up
from decascade.bounds.forward import run
from decascade.bounds.geometry import part
from decascade.bounds.problem import Limits, Problem
from decascade.bounds.state import Budget, ProofState
from decascade.bounds.witness.gradient import gradient
from decascade.bounds.witness.patterns import patterns
from decascade.ir.graph import Graph

Inputs = dict[str, np.ndarray]
Evaluate = Callable[[Inputs], Mapping[str, np.ndarray]]


def proved(graph: Graph, given: object, seconds: float, seed: int = 0, workers: int = 1) -> tuple[ProofState, Certificate]:
    """What `prove` does, and the bounds of every neuron that it ended with.  Seconds are the processor's; with two workers,
    whose searches run in a process of their own, the wall's."""
    clock = process_time if workers == 1 else perf_counter
    start = clock()
    budget = Budget.of(seconds, clock, start, workers)
    state = ProofState.of(Problem.of(graph, Box.of(graph, given)), budget, lambda _stage, _share: None)
    decide(state, warmed_up(state, np.random.default_rng(seed), seconds), None)
    return state, certificate(state, start)


def in_numpy(graph: Graph) -> Evaluate:
    """All tensors of a float32 run; arrays are (C, *S, N)."""

    def values(inputs: Inputs) -> Mapping[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        run(graph, {k: v.astype(np.float32) for k, v in inputs.items()}, found.__setitem__)
        return found

    return values


def uniform(limits: Limits, rng: np.random.Generator, batch: int) -> Iterator[Inputs]:
    while True:
        yield limits.at(lambda shape: rng.random((*shape, batch)))


def corners(limits: Limits, rng: np.random.Generator, batch: int) -> Iterator[Inputs]:
    """Every entry at one of its ends, as often at the upper one as one number per sample says."""
    while True:
        yield limits.at(lambda shape: (rng.random((*shape, batch)) < rng.random(batch)).astype(np.float64))


def pictures(limits: Limits, rng: np.random.Generator, batch: int) -> Iterator[Inputs]:
    """Plain colours, blocks, halves."""
    yield from patterns(limits, rng, batch)


def ascents(state: ProofState, limits: Limits, rng: np.random.Generator, batch: int, steps: int = 8) -> Iterator[Inputs]:
    """Each sample pushes one neuron, drawn over all activations, beyond one of its bounds, along signs of gradients."""
    layers = state.layers
    while True:
        s = layers[int(rng.integers(len(layers)))]
        if s.tensor in state.problem.graph.inputs:
            continue
        shape, ahead = state.bounds.tensors[s.tensor].lo.shape, part(state.problem.graph, [s.tensor])
        at = tuple(rng.integers(n, size=batch) for n in shape)
        side = rng.choice([-1.0, 1.0], batch)

        def seed(z: np.ndarray, at=at, side=side, shape=shape) -> Form:
            found = np.zeros((*shape, batch), z.dtype)
            found[(*at, np.arange(batch))] = side
            return Form(found, tuple((0, n) for n in shape[1:]))

        middle = rng.random() < 0.5
        x = limits.at(lambda shape, m=middle: np.full((*shape, batch), 0.5) if m else np.round(rng.random((*shape, batch))))
        for share in np.geomspace(1.0, 0.05, steps):
            slopes = gradient(ahead, {n: x[n] for n in ahead.inputs}, s.tensor, seed, lambda _name, _x: None)
            for name, form in slopes.items():
                pull = np.zeros_like(x[name])
                pull[form.where] = np.sign(form.coefficients)
                x[name] = x[name] + (share * (limits.hi[name] - limits.lo[name])).astype(np.float32) * pull
            x = limits.keep(x)
        yield x


def outside(
    state: ProofState, found: Certificate, values: Mapping[str, np.ndarray], small: bool = True,
) -> tuple[int, int, int]:
    """How many values break a bound of their neuron or channel, or the regime of a channel; of how many values; how many of
    these are of neurons that are proven.  `small`: the values are of a run at the size analysed, so that neurons are known."""
    wrong = total = proven = 0
    for record, s in zip(found.activations, state.layers, strict=True):
        z, bounds = values[s.tensor].astype(np.float64), state.bounds.tensors[s.tensor]
        flat = z.reshape(len(z), -1)
        bad = (flat < record.lo[:, None]) | (flat > record.hi[:, None])
        for c in np.flatnonzero(record.regime >= 0):
            piece = s.pieces[record.regime[c]]
            bad[c] |= (flat[c] < piece.lo) | (flat[c] > piece.hi)
        held = np.broadcast_to((record.regime >= 0)[:, None], flat.shape)
        if small:
            bad |= ((z < bounds.lo[..., None]) | (z > bounds.hi[..., None])).reshape(flat.shape)
            regime = state.bounds.regimes(s)[(slice(None), *np.ix_(*s.labels))] if s.labels else state.bounds.regimes(s)
            held = np.broadcast_to((regime >= 0)[..., None], z.shape)
        wrong, total, proven = wrong + int(bad.sum()), total + z.size, proven + int(held.sum())
    return wrong, total, proven
