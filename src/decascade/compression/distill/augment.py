"""Changes to samples that make more of few: mirrored, shifted, partly covered, mixed.

The original model is shown the same changed samples as the student and says what each is; no label is assumed to survive.
Still a change that turns samples into what the model never saw wastes the student's capacity: `suited` drops those under which
the original no longer says what it said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from decascade.compression.torch_graph.ops import load_torch
from decascade.errors import UsageError
from decascade.ir.graph import Graph

KEPT = 0.75
"""Share of samples of which the original must still say the same, for a change to be used."""


@dataclass(frozen=True)
class Augment:
    """What is done to a batch.  `flip`: each sample mirrored along its last axis or not; `shift`: moved by up to this share of
    each spatial axis, what is empty then filled by reflection; `cutout`: a box of this share of each spatial axis set to the
    sample's mean; `mixup`: this share of the samples mixed with another one in random proportion.

    Raises:
        UsageError: a share outside of 0 to 1.
    """

    flip: bool = True
    shift: float = 0.125
    cutout: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shift", "cutout", "mixup"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"augmentation {name} = {value}: give a share from 0 to 1")

    def __call__(self, values: Mapping[str, Any], generator: Any) -> dict[str, Any]:
        """The changed batch, floating where it was mixed; inputs with spatial axes are changed in place, the same way each.

        Inputs of integers that are no pixels must not be given.
        """
        torch = load_torch()
        count = len(next(iter(values.values())))
        changed = {name: self._moved(torch, x, generator) if x.ndim > 2 else x for name, x in values.items()}
        if not self.mixup or count < 2:
            return changed
        chosen = torch.rand(count, generator=generator) < self.mixup
        weight = torch.where(chosen, torch.rand(count, generator=generator), torch.ones(count))
        order = torch.randperm(count, generator=generator)
        return {name: _mixed(x, weight, order) for name, x in changed.items()}

    def _moved(self, torch: Any, x: Any, generator: Any) -> Any:
        size = x.shape[2:]
        if self.flip or self.shift:
            x = _gathered(torch, x, [self._places(torch, x, axis, generator) for axis in range(len(size))])
        if self.cutout:
            hidden = _box(torch, x, self.cutout, generator)
            mean = x.float().mean(tuple(range(2, x.ndim)), keepdim=True)
            x = torch.where(hidden, mean if x.is_floating_point() else mean.round().to(x.dtype), x)
        return x

    def _places(self, torch: Any, x: Any, axis: int, generator: Any) -> Any:
        """(N, n): where along an axis each sample's positions are taken from."""
        count, n = len(x), x.shape[2 + axis]
        places = torch.arange(n).expand(count, n)
        if self.flip and axis == x.ndim - 3:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            places = torch.where(mirrored, n - 1 - places, places)
        most = min(round(self.shift * n), n - 1)
        if most:
            places = places + torch.randint(-most, most + 1, (count, 1), generator=generator)
            # reflection at both ends, the edge itself not repeated
            places = (n - 1) - ((n - 1) - places.abs()).abs()
        return places


def _gathered(torch: Any, x: Any, places: list[Any]) -> Any:
    """x[n, :, places[0][n, i], places[1][n, j], …]."""
    rank = len(places)
    samples = torch.arange(len(x)).view(-1, *(1,) * rank)
    index = [p.view(len(x), *(-1 if k == axis else 1 for k in range(rank))) for axis, p in enumerate(places)]
    # with the channels last in memory one index moves whole pixels
    moved = x.movedim(1, -1)[(samples, *index)]
    return moved.movedim(-1, 1)


def _box(torch: Any, x: Any, share: float, generator: Any) -> Any:
    """(N, 1, *S): whether a position lies in the sample's box, whose middle may be anywhere."""
    inside = torch.ones((len(x), 1, *(1,) * (x.ndim - 2)), dtype=torch.bool)
    for axis, n in enumerate(x.shape[2:]):
        middle = torch.rand(len(x), 1, generator=generator) * n
        near = (torch.arange(n) + 0.5 - middle).abs() < share * n / 2
        inside = inside & near.view(len(x), 1, *(n if k == axis else 1 for k in range(x.ndim - 2)))
    return inside


def _mixed(x: Any, weight: Any, order: Any) -> Any:
    x = x.float()
    share = weight.view(-1, *(1,) * (x.ndim - 1))
    return share * x + (1 - share) * x[order]


def possible(graph: Graph, augment: Augment) -> Augment:
    """Without what the inputs of a graph do not allow: integers are not mixed, nor moved; mixing needs numbers everywhere."""
    numbers = all(graph.tensors[name].dtype.startswith(("float", "bfloat", "uint8")) for name in graph.inputs)
    if len(graph.inputs) == 1 and numbers:
        return augment
    # several inputs belong together in a way that only the user knows
    return replace(augment, flip=False, shift=0.0, cutout=0.0, mixup=augment.mixup if numbers else 0.0)


def suited(augment: Augment, decide: Callable[[Mapping[str, Any]], Any], values: Mapping[str, Any], generator: Any) -> Augment:
    """Without the changes under which a model decides otherwise on more than a quarter of the samples.

    `decide` gives the model's decision for each sample of a batch.
    """
    before = decide(values)
    ways = {
        "flip": {name: x.flip(-1) if x.ndim > 2 else x for name, x in values.items()},
        "shift": Augment(flip=False, shift=augment.shift)(values, generator),
        "cutout": Augment(flip=False, shift=0.0, cutout=augment.cutout)(values, generator),
    }
    for field, changed in ways.items():
        if getattr(augment, field) and float((decide(changed) == before).float().mean()) < KEPT:
            augment = replace(augment, **{field: type(getattr(augment, field))(0)})
    return augment
