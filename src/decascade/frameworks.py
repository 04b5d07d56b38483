"""Frameworks and other packages of the extras: imported when first needed, and kept from disturbing each other."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from decascade.errors import MissingPackageError

EXTRAS = {
    "keras": ("Keras", "keras"),
    "h5py": ("h5py", "keras"),
    "tensorflow": ("TensorFlow", "keras"),
    "torch": ("PyTorch", "torch"),
    "PIL": ("Pillow", "torch"),
    "onnx": ("onnx", "run"),
    "onnxruntime": ("onnxruntime", "run"),
    "plotly": ("plotly", "device"),
    "ai_edge_litert": ("ai-edge-litert", "device"),
    "tflite_micro": ("tflite-micro", "device"),
    "emx_onnx_cgen": ("emx-onnx-cgen", "device"),
}
"""A top-level module: the name of its package, and the extra of decascade that installs it."""


def needed(name: str, use: str) -> Any:
    """The module `name` of a package in `EXTRAS`, imported; `use`: what needs it, as the subject of a sentence.

    Raises:
        MissingPackageError: it cannot be imported; names the package and the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package, extra = EXTRAS[name.partition(".")[0]]
        words = " ".join(str(error).split())
        raise MissingPackageError(
            f'{use} needs {package}, which cannot be imported ({words}): pip install "decascade[{extra}]"') from None


def keep_triton_out() -> None:
    """Where TensorFlow is loaded and Triton is not: Triton cannot be imported from now on.

    Both carry an LLVM of their own, and Triton's, loaded second, ends the process ("Option registered more than once").
    PyTorch imports Triton when the first optimiser is made, and does without it where the import fails.  The other order
    works, so a Triton that is there already stays.
    """
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # None is how Python marks what cannot be imported
