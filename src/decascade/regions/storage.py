"""Whether new weights fit the type that they are stored in: a merge that does not is refused, as one that does not pay is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from decascade.algebra.floats import FloatType, float_type, rounded
from decascade.ir.graph import Node, Tensor
from decascade.ir.ops import Op
from decascade.ir.ops.traits import weights as weights_of
from decascade.regions.lower import Refusal


def unstorable(nodes: Iterable[Node], tensors: Mapping[str, Tensor]) -> Refusal | None:
    """Why some of these new nodes cannot be stored in the types of the tensors that they write; None where all can."""
    for node in nodes:
        dtype = tensors[node.output].dtype
        kind = float_type(dtype)
        reason = None if kind is None else _misfit(node.op, dtype, kind)
        if reason is not None:
            return Refusal(reason[0], node.name, reason[1])
    return None


def _misfit(op: Op, dtype: str, kind: FloatType) -> tuple[str, dict[str, float]] | None:
    """What is wrong with the weights of an operation in a type, in words and numbers.

    Too large: a weight that the type rounds to infinity.  Too small: what is lost of a weight below the smallest normal number
    may be as much as all weights of the layer are together worth, measured by the largest of them: more than u of it, the
    error that every weight has.  float32 and wider are taken to flush such weights to zero, as many devices do.
    """
    weights = [np.asarray(w, np.float64) for w in weights_of(op).values()]
    if not all(np.isfinite(w).all() for w in weights):
        return "its weights would not be finite", {}
    largest = max((float(np.abs(w).max(initial=0.0)) for w in weights), default=0.0)
    if any(not np.isfinite(rounded(w, dtype)).all() for w in weights):
        words = f"a merged weight of {largest:.3g} is beyond the range of {dtype}, which ends at {kind.top:.5g}"
        return words, {"weight": largest, "limit": kind.top}
    flushed = dtype != "float16"
    lost = max((_lost(w, dtype, kind, flushed) for w in weights), default=0.0)
    if lost > kind.u * largest:
        words = f"the merged weights, at most {largest:.3g}, are too small for {dtype}, which is coarse below {kind.tiny:.3g}"
        return words, {"weight": largest, "limit": kind.tiny}
    return None


def _lost(weights: np.ndarray, dtype: str, kind: FloatType, flushed: bool) -> float:
    """The largest part of a weight below `tiny` that is lost in storing it."""
    small = np.where(np.abs(weights) < kind.tiny, weights, 0.0)
    kept = 0.0 if flushed else rounded(small, dtype).astype(np.float64)
    return float(np.abs(small - kept).max(initial=0.0))
