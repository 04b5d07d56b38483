"""Second moments of patches and targets, and what is solved on them: all that least squares needs (DESIGN §3).

    y ≈ Wᵀp + b        G = Σ (p − p̄)(p − p̄)ᵀ        B = Σ (p − p̄)(z − z̄)ᵀ        W = (G + λI)⁻¹ B
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
"""Of float64."""
Found = TypeVar("Found")
RIDGE = 1e-6
"""λ as a share of the mean diagonal of G."""
CONSTANT = 1e-12
"""The least share of its mean square that the variance of an exit is taken for: below is rounding."""


@dataclass(frozen=True, eq=False)
class Half:
    """The patches of the rows to fit on, or of those held out: their number, Σ p, (K,), and Σ (p − p̄)(p − p̄)ᵀ, (K, K)."""

    count: float
    total: Matrix
    gram: Matrix


@dataclass(frozen=True, eq=False)
class Patches:
    """The moments of the patches of one window; p has had `shift` taken off.  Whatever is solved on this window shares one
    factorisation."""

    fitted: Half
    held: Half
    shift: Matrix

    @property
    def bytes(self) -> int:
        """Memory of this and of the factor."""
        return 3 * self.fitted.gram.nbytes

    @cached_property
    def factor(self) -> Any:
        """What `solve_with` takes to solve with G + λI."""
        return ridge_factor(self.fitted.gram)


@dataclass(frozen=True, eq=False)
class Target:
    """Over the same rows: Σ z, (O,), Σ (p − p̄)(z − z̄)ᵀ, (K, O), and Σ|z − z̄|².  `variance`: Σ|y − ȳ|² of the exit y, which
    is z itself or, in a student with a skip, z and the entry."""

    total: Matrix
    cross: Matrix
    square: float
    variance: float


@dataclass(frozen=True, eq=False)
class Regression:
    """The moments of one request: a target, which has had `offset` taken off, on patches."""

    patches: Patches
    fitted: Target
    held: Target
    offset: Matrix
    _found: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def once(self, what: Any, find: Callable[[], Found]) -> Found:
        """What `find` gives, found once for all students that call it by the same name."""
        if what not in self._found:
            self._found[what] = find()
        return self._found[what]

    @property
    def gram(self) -> Matrix:
        """G, (K, K)."""
        return self.patches.fitted.gram

    @property
    def cross(self) -> Matrix:
        """B, (K, O)."""
        return self.fitted.cross

    @cached_property
    def weight(self) -> Matrix:
        """W, (K, O)."""
        return solve_with(self.patches.factor, self.cross)

    def bias(self, weight: Matrix) -> Matrix:
        """b of the affine map with this W, (K, O) → (O,)."""
        half = self.patches.fitted
        return self.offset + self.fitted.total / half.count - (half.total / half.count + self.patches.shift) @ weight

    def error(self, weight: Matrix) -> tuple[float, float]:
        """The share of the exit's variance that Wᵀp + b, b = `bias(weight)`, leaves unexplained: on the held-out rows (where
        there are any), on the fitted rows.  Sums of float32 products tell errors down to about 1e-6."""
        fitted = _unexplained(self.patches.fitted, self.fitted, weight, 0.0)
        near, apart = self.patches.fitted, self.patches.held
        if not apart.count:
            return fitted, fitted
        # the bias makes the mean residual zero on the fitted rows, not on those held out
        moved = apart.total / apart.count - near.total / near.count
        mean = self.held.total / apart.count - self.fitted.total / near.count - moved @ weight
        return _unexplained(apart, self.held, weight, apart.count * float(mean @ mean)), fitted


def _unexplained(half: Half, target: Target, weight: Matrix, mean: float) -> float:
    residual = target.square - 2 * np.sum(weight * target.cross) + np.sum(weight * (half.gram @ weight)) + mean
    return float(max(residual, 0.0) / target.variance) if target.variance > 0 else 0.0


def eigh(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, ascending, and eigenvectors as columns."""
    linalg: Any = np.linalg  # whose stubs do not know what comes out
    return tuple(linalg.eigh(symmetric))


def ridge_factor(gram: Matrix) -> Any:
    """What `solve_with` solves with: the Cholesky factor of G + λI; None where G is zero or holds nothing but rounding.

    λ = 1e-6 of the mean diagonal, or more: of patches that are nearly dependent (sound, smooth pictures) the sums of float32
    products are off by more than that, and λ grows tenfold until the matrix is positive definite.
    """
    scale = float(np.trace(gram)) / len(gram)
    if not scale > 0:
        return None
    linalg: Any = import_module("scipy.linalg")
    share = RIDGE
    while share <= 1:
        damped = gram.copy()
        damped[np.diag_indices(len(gram))] += share * scale
        try:
            return linalg.cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            share *= 10
    return None


def solve_with(factor: Any, cross: Matrix) -> Matrix:
    """(G + λI)⁻¹ B; zeros where there is no factor."""
    linalg: Any = import_module("scipy.linalg")
    return np.zeros_like(cross) if factor is None else linalg.cho_solve(factor, cross, check_finite=False)


def ridge_solve(gram: Matrix, cross: Matrix) -> Matrix:
    """(G + λI)⁻¹ B: directions that the data does not show get no weight."""
    return solve_with(ridge_factor(gram), cross)


def eliminate(gram: Matrix, cross: Matrix, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """The channels in the order in which they should go, cheapest first: backward elimination.

    Leaving out channel c and refitting the rest adds ‖W_c‖² in the metric of ((G⁻¹)_cc)⁻¹ to the squared error (the formula of
    optimal brain surgeon, Hassibi & Stork 1993, for a block of weights).
    `owner`: the channel of every row of G and B; all have equally many.  Of 128 and more, several of the cheapest go at a time.
    """
    rows, left = np.argsort(owner, kind="stable"), np.unique(owner)
    taps, together = len(owner) // len(left), max(1, len(left) // 64)
    inverted = solve_with(ridge_factor(gram[np.ix_(rows, rows)]), np.eye(len(rows)))
    if not inverted.any():
        return left  # nothing but zeros to tell them apart
    weight, order = inverted @ cross[rows], list[NDArray[np.int64]]()
    while len(left):
        each = np.arange(len(left))
        own = weight.reshape(len(left), taps, -1)
        blocks = inverted.reshape(len(left), taps, len(left), taps)[each, :, each]
        price = np.sum(own * np.linalg.solve(blocks, own), (1, 2))
        gone = np.zeros(len(left), bool)
        gone[cheapest := np.argsort(price, kind="stable")[:together]] = True
        order.append(left[cheapest])
        inverted, weight = _without(inverted, weight, np.repeat(gone, taps))
        left = left[~gone]
    return np.concatenate(order)


def _without(inverted: Matrix, weight: Matrix, gone: NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """G⁻¹ and W once these rows of G are left out."""
    beside, kept = inverted[np.ix_(gone, ~gone)], inverted[np.ix_(~gone, ~gone)]
    solved: Any = np.linalg.solve(inverted[np.ix_(gone, gone)], np.hstack([beside, weight[gone]]))
    kept -= beside.T @ solved[:, : len(kept)]
    return kept, weight[~gone] - beside.T @ solved[:, len(kept):]


def inverse(matrix: Matrix) -> Matrix:
    linalg: Any = np.linalg
    return linalg.inv(matrix)
