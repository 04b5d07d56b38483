"""Exported programs that were exported in training mode, as they are in eval mode.

torch.export keeps the mode as an argument of each call (`training=True`), so a call is put into eval mode by that argument.
What a decomposition has made of such calls (masks that are drawn, statistics of the batch) has no such argument.
"""

from __future__ import annotations

from typing import Any

from decascade.errors import FormatError
from decascade.formats.torch.pure import call_name

_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_POSITIONS = {
    "batch_norm": 5,
    "instance_norm": 5,
    **dict.fromkeys(_DROPOUTS, 2),
    **{f"{name}_": 2 for name in _DROPOUTS},
    "native_dropout": 2,
    "rrelu": 3,
    "rrelu_": 3,
}
"""Where aten's calls take whether they are in training mode."""

_NORMS = ("batch_norm", "instance_norm")
"""They use the statistics of the batch in eval mode too where they have no stored ones (argument 3)."""

_LOST = {"_native_batch_norm_legit": 5, "native_batch_norm": 5, "rrelu_with_noise": 4, "rrelu_with_noise_functional": 4}
"""Decomposed calls, and where they take the mode; what stands around them is of training mode too."""


def read_as_eval(module: Any) -> bool:
    """Put the calls of an unlifted program, which is changed in place, into eval mode; whether any was in training mode.

    Raises:
        FormatError: it was decomposed in training mode, which cannot be taken back.
    """
    found = False
    for node in list(module.graph.nodes):
        name = _aten(node)
        if _is_lost(node, name):
            raise FormatError(
                f"the program was exported in training mode and decomposed ({node.target}): "
                "call model.eval(), then torch.export.export again"
            )
        position = _POSITIONS.get(name)
        if position is None or len(node.args) <= position or node.args[position] is not True:
            continue
        if name not in _NORMS or node.args[3] is not None:
            node.args = (*node.args[:position], False, *node.args[position + 1 :])
            found = True
    if _drop_counters(module.graph) or found:
        module.recompile()
    return found


def _aten(node: Any) -> str:
    """The bare name of a call of aten; "" for anything else."""
    return call_name(node) if node.op == "call_function" and getattr(node.target, "namespace", "") == "aten" else ""


def _is_lost(node: Any, name: str) -> bool:
    if name in ("bernoulli", "bernoulli_", "_native_batch_norm_legit_functional", "_batch_norm_with_update_functional"):
        return True
    position = _LOST.get(name)
    return position is not None and node.args[position : position + 1] == (True,) and "no_stats" not in str(node.target)


def _drop_counters(graph: Any) -> bool:
    """Take out what counts the batches that a batch norm has seen; whether there was any."""
    found = False
    for node in reversed(list(graph.nodes)):
        first = node.args[0] if node.args else None
        counts = getattr(first, "op", "") == "get_attr" and str(getattr(first, "target", "")).endswith("num_batches_tracked")
        if counts and _aten(node) in ("add_", "copy_") and not node.users:
            graph.erase_node(node)
            found = True
    return found
