"""decascade: merges cascades of convolutions in trained CNNs, exactly, borders included, and only where it pays."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decascade.algebra.affine import average_pool, batch_norm, flatten_dense, identity
    from decascade.algebra.border import find_border
    from decascade.algebra.compose import compose
    from decascade.algebra.conv import Conv, ConvTranspose
    from decascade.algebra.factor import splits
    from decascade.algebra.parallel import add, split, stack
    from decascade.algebra.program import chain
    from decascade.api import (
        CompressResult,
        MergeResult,
        bench,
        compress,
        distill,
        export,
        fit_segment,
        inspect,
        merge,
        plan,
        verify,
    )
    from decascade.compression.data.batches import Scaling
    from decascade.compression.distill.train import DistillOptions
    from decascade.compression.plan.choice import Plan
    from decascade.errors import (
        AlgebraError,
        DecascadeError,
        FormatError,
        OutputError,
        UnsafeModelError,
        UsageError,
        VerificationError,
    )
    from decascade.report.facts.report import Report
    from decascade.stability import stability_loss

from decascade.version import __version__

_HOME = {
    "decascade.api": (
        "CompressResult", "MergeResult", "bench", "compress", "distill", "export", "fit_segment", "inspect", "merge", "plan",
        "verify",
    ),
    "decascade.algebra.conv": ("Conv", "ConvTranspose"),
    "decascade.algebra.compose": ("compose",),
    "decascade.algebra.parallel": ("add", "split", "stack"),
    "decascade.algebra.affine": ("average_pool", "batch_norm", "flatten_dense", "identity"),
    "decascade.algebra.border": ("find_border",),
    "decascade.algebra.program": ("chain",),
    "decascade.algebra.factor": ("splits",),
    "decascade.stability": ("stability_loss",),
    "decascade.report.facts.report": ("Report",),
    "decascade.compression.data.batches": ("Scaling",),
    "decascade.compression.distill.train": ("DistillOptions",),
    "decascade.compression.plan.choice": ("Plan",),
    "decascade.errors": (
        "AlgebraError", "DecascadeError", "FormatError", "OutputError", "UnsafeModelError", "UsageError", "VerificationError",
    ),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AlgebraError", "CompressResult", "Conv", "ConvTranspose", "DecascadeError", "DistillOptions", "FormatError", "MergeResult",
    "OutputError", "Plan", "Report", "Scaling", "UnsafeModelError", "UsageError", "VerificationError", "__version__", "add",
    "average_pool", "batch_norm", "bench", "chain", "compose", "compress", "distill", "export", "find_border", "fit_segment",
    "flatten_dense", "identity", "inspect", "merge", "plan", "split", "splits", "stability_loss", "stack", "verify",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first asked for, so that `import decascade` is quick."""
    if name not in _MODULE:
        raise AttributeError(f"module 'decascade' has no attribute {name!r}; did you mean one of {', '.join(__all__)}?")
    found = getattr(import_module(_MODULE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
