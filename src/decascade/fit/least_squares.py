"""Second moments of patches and targets, and what is solved on them: all that least squares needs (DESIGN §3).

    y ≈ Wᵀp + b        G = Σ (p − p̄)(p − p̄)ᵀ        B = Σ (p − p̄)(z − z̄)ᵀ        W = (G + λI)⁻¹ B
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
"""Of float64."""
RIDGE = 1e-6
"""λ as a share of the mean diagonal of G."""


@dataclass(frozen=True, eq=False)
class Half:
    """Sums over n rows of (p, 1)(p, 1)ᵀ, (p, 1)zᵀ and z², with a constant `shift` taken off p beforehand."""

    gram: Matrix
    cross: Matrix
    square: Matrix

    @property
    def count(self) -> float:
        return float(self.gram[-1, -1])


@dataclass(frozen=True, eq=False)
class Regression:
    """The moments of one request: `fitted` to be solved, `held` to tell the error on."""

    fitted: Half
    held: Half
    shift: Matrix

    @property
    def gram(self) -> Matrix:
        """G, (K, K)."""
        s = self.fitted.gram[:-1, -1]
        return self.fitted.gram[:-1, :-1] - np.outer(s, s) / self.fitted.count

    @property
    def cross(self) -> Matrix:
        """B, (K, O)."""
        return self.fitted.cross[:-1] - np.outer(self.fitted.gram[:-1, -1], self.fitted.cross[-1]) / self.fitted.count

    def bias(self, weight: Matrix) -> Matrix:
        """b of the affine map with this W, (K, O) → (O,)."""
        mean = self.fitted.gram[-1, :-1] / self.fitted.count
        return self.fitted.cross[-1] / self.fitted.count - (mean + self.shift) @ weight

    def error(self, weight: Matrix, bias: Matrix | None = None) -> tuple[float, float]:
        """The share of the variance of z that Wᵀp + b leaves unexplained: on the held-out rows, on the fitted rows."""
        offset = (self.bias(weight) if bias is None else bias) + self.shift @ weight
        both = np.vstack([weight, offset])
        return _unexplained(self.held, both), _unexplained(self.fitted, both)


def _unexplained(half: Half, both: Matrix) -> float:
    residual = half.square.sum() - 2 * np.sum(both * half.cross) + np.sum(both * (half.gram @ both))
    variance = half.square.sum() - np.sum(half.cross[-1] ** 2) / half.count
    return float(max(residual, 0.0) / variance) if variance > 1e-12 * half.square.sum() + 1e-30 else 0.0


def eigh(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues, ascending, and eigenvectors as columns."""
    linalg: Any = np.linalg  # whose stubs do not know what comes out
    return tuple(linalg.eigh(symmetric))


def cholesky(positive: Matrix) -> Matrix:
    """The lower L with LLᵀ as given."""
    linalg: Any = np.linalg
    return linalg.cholesky(positive)


def beside_identity(factor: Matrix, size: int) -> Matrix:
    """factor ⊗ I, (a·size, b·size)."""
    a, b = factor.shape
    return np.einsum("ab,ij->aibj", factor, np.eye(size)).reshape(a * size, b * size)


def ridge_solve(gram: Matrix, cross: Matrix) -> Matrix:
    """(G + λI)⁻¹ B with λ = 1e-6 of the mean diagonal: directions that the data does not show get no weight."""
    scale = float(np.trace(gram)) / len(gram)
    if not scale > 0:
        return np.zeros_like(cross)
    linalg: Any = import_module("scipy.linalg")
    return linalg.cho_solve(linalg.cho_factor(gram + RIDGE * scale * np.eye(len(gram)), lower=True), cross)


def eliminate(gram: Matrix, cross: Matrix, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """The channels in the order in which they should go, cheapest first: backward elimination.

    Leaving out channel c and refitting the rest adds ‖W_c‖² in the metric of ((G⁻¹)_cc)⁻¹ to the squared error (the formula of
    optimal brain surgeon, Hassibi & Stork 1993, for a block of weights).
    `owner`: the channel of every row of G and B.  Where there are many, several of the cheapest go at a time.
    """
    scale = max(float(np.trace(gram)) / len(gram), 1e-30)
    inverse = np.linalg.inv(gram + RIDGE * scale * np.eye(len(gram)))
    weight = inverse @ cross
    rows = {int(c): np.flatnonzero(owner == c) for c in np.unique(owner)}
    order, together = list[int](), max(1, len(rows) // 64)
    while rows:
        price = {c: _price(inverse, weight, r) for c, r in rows.items()}
        for channel in sorted(price, key=price.__getitem__)[:together]:
            r = rows.pop(channel)
            solved = np.linalg.solve(inverse[np.ix_(r, r)], np.hstack([inverse[r], weight[r]]))
            weight = weight - inverse[:, r] @ solved[:, len(gram):]
            inverse = inverse - inverse[:, r] @ solved[:, : len(gram)]
            # what is gone must not come back through rounding
            inverse[r, :] = inverse[:, r] = 0.0
            inverse[r, r] = 1.0
            weight[r] = 0.0
            order.append(channel)
    return np.array(order)


def _price(inverse: Matrix, weight: Matrix, rows: NDArray[np.int64]) -> float:
    block = weight[rows]
    return float(np.sum(block * np.linalg.solve(inverse[np.ix_(rows, rows)], block)))
