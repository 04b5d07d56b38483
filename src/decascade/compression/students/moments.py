"""The moments of patches and targets, accumulated in float64 over batches of activations.

A patch is what a convolution multiplies its kernel with, the target the value that it should give there.  Memory does not
grow with the number of samples.  Every fourth sample is held out: the error of a fit is told on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from decascade.compression.students.least_squares import Patches, Regression, eliminate
from decascade.compression.students.sums import BLOCK, Sums, places_of
from decascade.compression.students.windows import Request, Window, patches_per_unknown

Run = Callable[[Any, Sequence[str]], Mapping[str, Any]]
"""Runs a batch through the model and gives the wanted tensors, (N, C, *S) torch arrays."""
HELD = 4
"""One sample in so many is held out."""
ROWS = (16.0, 64.0)
"""Patches per unknown of a fit (per row of G), at least and at most: where rows are independent, the error of the fit is about
one part in so many above that of the best."""
WORK = 2**16
"""Patches of a fit, as long as that is within `ROWS`: more unknowns get fewer each, as the arithmetic grows with their cube."""
LARGEST = 4608
"""Unknowns per output that a fit may have; Gram matrices grow with its square."""
RECENT = 256 * 2**20
"""Bytes of matrices of windows that are kept at hand while students are fitted."""


class Moments:
    """What `collect` gathered, by request, and what has been solved on it.

    Everything on one window shares its factorisation as long as it is asked for in a row.
    """

    def __init__(self, groups: Mapping[Request, Sums]) -> None:
        self._groups = groups
        self._recent = dict[tuple[int, Window], tuple[Patches, dict[Request, Regression]]]()
        self._orders = dict[tuple[Request, bytes], NDArray[np.int64]]()

    def regression(self, request: Request) -> Regression:
        """The moments of a request that was collected."""
        group = self._groups[request]
        patches, regressions = self._at_hand(group, request.window)
        if request not in regressions:
            regressions[request] = group.regression(request, patches)
        return regressions[request]

    def order(self, request: Request, owner: NDArray[np.int64]) -> NDArray[np.int64]:
        """The channels that a request's patches have, `owner` for each row of G, in the order in which they should go, cheapest
        first; found once."""
        key = (request, owner.tobytes())
        if key not in self._orders:
            regression = self.regression(request)
            self._orders[key] = eliminate(regression.gram, regression.cross, owner)
        return self._orders[key]

    def _at_hand(self, group: Sums, window: Window) -> tuple[Patches, dict[Request, Regression]]:
        key = (id(group), window)
        found = self._recent.pop(key, None) or (group.patches(window), dict[Request, Regression]())
        self._recent[key] = found
        while len(self._recent) > 1 and sum(patches.bytes for patches, _ in self._recent.values()) > RECENT:
            del self._recent[next(iter(self._recent))]
        return found


def collect(
    run: Run, batches: Iterable[Any], requests: Iterable[Request], shapes: Mapping[str, Sequence[int]], samples: int, seed: int,
    original: Run | None = None, rows: float | None = None,
) -> Moments:
    """One pass over the data for all requests.

    `run` gives the tensors whose patches are taken (and those subtracted), `original`, if it is another model, the targets.
    `shapes`: (C, *S) of every tensor that is asked for.  `samples`: how many the batches hold together; where they have more
    than `rows` patches per unknown (by default what `ROWS` and `WORK` say), a random part of the positions is taken, the same
    in all samples of a batch.
    """
    torch: Any = import_module("torch")
    found = groups(requests, shapes)
    each = list(dict.fromkeys(found.values()))
    read = tuple(dict.fromkeys(n for g in each for n in (g.tensor, *(minus for _, minus in g.columns if minus))))
    targets = tuple(dict.fromkeys(target for g in each for target, _ in g.columns))
    generator, seen, scratch = torch.Generator().manual_seed(seed), 0, np.zeros(0)
    for batch in batches:
        values = run(batch, read if original else tuple(dict.fromkeys((*read, *targets))))
        wanted = original(batch, targets) if original else values
        held = np.zeros(0, bool)
        for group in each:
            x = values[group.tensor]
            if not len(held):
                held = np.arange(seen, seen + len(x)) % HELD == HELD - 1
                scratch = _scratch(scratch, x, each)
            group.add(values, wanted, held, places_of(group.out, _share(group, shapes, samples, rows), generator), scratch)
        seen += len(held)
    return Moments(found)


def _scratch(kept: Any, x: Any, each: Iterable[Sums]) -> Any:
    """Room for a block of rows, and at least for one position of every sample."""
    dtype = x.new_empty(0).cpu().numpy().dtype
    size = max(BLOCK, len(x)) * max(group.unknowns + 1 for group in each)
    return kept if len(kept) >= size and kept.dtype == dtype else np.empty(size, dtype)


def groups(requests: Iterable[Request], shapes: Mapping[str, Sequence[int]]) -> dict[Request, Sums]:
    """The requests and the sums that serve them: those on one tensor with one stride and output size go together, as far as
    the union of their windows has no more than `LARGEST` unknowns."""
    together = dict[Any, list[tuple[Window, list[Request]]]]()
    for request in sorted(set(requests), key=lambda r: (-prod(r.window.kernel), r)):
        window, channels = request.window, shapes[request.tensor][0]
        key = (request.tensor, window.stride, tuple(shapes[request.target][1:]))
        for i, (whole, members) in enumerate(some := together.setdefault(key, [])):
            union = whole.union(window)
            if union == whole or channels * prod(union.kernel) <= LARGEST:
                some[i] = (union, [*members, request])
                break
        else:
            some.append((window, [request]))
    made = [(Sums(members, shapes), members) for _, some in sorted(together.items()) for _, members in some]
    return {request: group for group, members in made for request in members}


def bytes_of(requests: Iterable[Request], shapes: Mapping[str, Sequence[int]]) -> int:
    """What the moments of these requests take together."""
    return sum(group.bytes for group in dict.fromkeys(groups(requests, shapes).values()))


def _share(group: Sums, shapes: Mapping[str, Sequence[int]], samples: int, rows: float | None) -> float:
    """The part of all output positions that gives every unknown its rows."""
    if rows is None:
        rows = min(max(WORK / group.unknowns, ROWS[0]), ROWS[1])
    widest = Request(group.tensor, group.window, next(iter(group.columns))[0])
    return min(1.0, rows * HELD / (HELD - 1) / patches_per_unknown(widest, shapes, samples))
