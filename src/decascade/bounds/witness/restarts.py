"""Pictures that took a neuron nearest to where it is wanted, and perturbations of them, from which ascents start again.

Where ascents end in many different places, one that begins beside the best so far gets further than one that begins anywhere:
iterated local search (Lourenço, Martin and Stützle 2003), here with several best ones, of which a new one replaces the worst.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from decascade.bounds.forward import Values
from decascade.bounds.problem import Limits

Key = tuple[str, int, int]
"""An activation, a channel and a direction."""
Spot = tuple[int, ...]
POOL = 8
"""Pictures that are kept of each key."""
MOST = 2**28
"""Bytes of pictures that are kept of all."""
GENTLEST = 2.0
"""Perturbed is a share of the entries between one and a tenth to this power, all orders of magnitude alike."""


@dataclass(frozen=True, eq=False)
class Near:
    """A picture (C, *S) per input in which a neuron at `spot` had a value that is the higher, the nearer it is."""

    value: float
    spot: Spot
    picture: Mapping[str, Values]

    @property
    def bytes(self) -> int:
        return sum(v.nbytes for v in self.picture.values())


@dataclass(eq=False)
class Restarts:
    """The nearest of each key."""

    pools: dict[Key, list[Near]] = field(default_factory=dict[Key, list[Near]])

    def offer(self, key: Key, near: Near) -> None:
        """Keep it if there is room or it is nearer than the last that is kept."""
        pool = self.pools.setdefault(key, [])
        if len(pool) < POOL and self.bytes + near.bytes <= MOST:
            pool.append(near)
        elif pool:
            worst = min(range(len(pool)), key=lambda i: pool[i].value)
            if near.value > pool[worst].value:
                pool[worst] = near

    @property
    def bytes(self) -> int:
        return sum(near.bytes for pool in self.pools.values() for near in pool)

    def keep(self, name: str, keys: Collection[Key]) -> None:
        """Of an activation, drop those of other keys."""
        self.pools = {k: pool for k, pool in self.pools.items() if k[0] != name or k in keys}

    def start(self, key: Key, limits: Limits, rng: np.random.Generator) -> tuple[Mapping[str, Values], Spot] | None:
        """One of them, perturbed, and the spot that it is for; None where there is none."""
        pool = self.pools.get(key)
        if not pool:
            return None
        near = pool[int(rng.integers(len(pool)))]
        return perturbed(near.picture, limits, rng), near.spot


def perturbed(picture: Mapping[str, Values], limits: Limits, rng: np.random.Generator) -> dict[str, Values]:
    """The picture (C, *S) per input with a random share of its entries anywhere in the box."""
    share, anywhere = 10 ** (-GENTLEST * rng.random()), limits.at(lambda shape: rng.random((*shape, 1)))
    return {n: np.where(rng.random(v.shape) < share, anywhere[n][..., 0], v) for n, v in picture.items()}
