"""Costs and their changes in words."""

from __future__ import annotations


def quantity(value: float) -> str:
    """Three digits and a unit: 12.3 M."""
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / (1e3 if size == 1e4 else size):.3g}{sign}"
    return f"{value:,.0f}"


def change(before: float, after: float | None) -> str:
    """How the cost changes, in words: 3.1 × less."""
    if after is None:
        return ""
    if after == before:
        return "the same"
    if not before or not after:
        return ""
    if 0.99 < after / before < 1.01:
        return f"{abs(after / before - 1):.2%} {'less' if after < before else 'more'}"
    return f"{before / after:.3g} × less" if after < before else f"{after / before:.3g} × more"
