"""Frameworks in one process that do not get on with each other."""

from __future__ import annotations

import sys


def keep_triton_out() -> None:
    """Where TensorFlow is loaded and Triton is not: Triton cannot be imported from now on.

    Both carry an LLVM of their own, and Triton's, loaded second, ends the process ("Option registered more than once").
    PyTorch imports Triton when the first optimiser is made, and does without it where the import fails.  The other order
    works, so a Triton that is there already stays.
    """
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # None is how Python marks what cannot be imported
