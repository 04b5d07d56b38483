"""What an ONNX model states of itself, opsets and sizes, held against what can be read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from math import prod
from typing import Any

from decascade.errors import FormatError, LimitExceededError
from decascade.formats.onnx.nodes import STANDARD
from decascade.ir.graph import Shape
from decascade.limits import LIMITS

LEAST_OPSET = 7


def opsets_of(shell: Any) -> Mapping[str, int]:
    """The opset of every domain that a ModelProto states; ONNX's own as "".

    Raises:
        FormatError: an opset of ONNX's own domain below 7, or above what the installed onnx knows; none, where a node of that
            domain needs it.
    """
    opsets = {("" if o.domain in STANDARD else o.domain): int(o.version) for o in shell.opset_import}
    if "" not in opsets and opsets and not any(node.domain in STANDARD for node in shell.graph.node):
        return opsets
    newest = int(import_module("onnx").defs.onnx_opset_version())
    told = f"the model states opset {opsets['']}" if "" in opsets else "the model states no opset"
    known = f"opsets {LEAST_OPSET} to {newest} are known"
    if opsets.get("", 0) < LEAST_OPSET:
        raise FormatError(f"{told}: convert it to opset {LEAST_OPSET} or later (onnx.version_converter); {known}")
    if opsets[""] > newest:
        raise FormatError(f"{told}: update onnx, or export the model again; {known}")
    return opsets


def check_stated(graph: Any) -> None:
    """Refuse sizes of inputs, outputs and tensors between that no tensor can have.  -1 is what some exporters write for open.

    Raises:
        FormatError: an input with a size of 0; any size below -1.
        LimitExceededError: as `check_elements`.
    """
    given = {t.name for t in graph.initializer}
    for kind, infos in (("input", graph.input), ("output", graph.output), ("tensor", graph.value_info)):
        for info in infos:
            sizes = [d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value")]
            empty = kind == "input" and info.name not in given and 0 in sizes
            wrong = [n for n in sizes if n < -1] + [0] * empty
            if wrong:
                told = f"{kind} {info.name} is stated to have the size {wrong[0]}"
                raise FormatError(f"{told}: sizes are 1 or more, or names where they are open; export the model again")
            check_elements(f"{kind} {info.name}", tuple(sizes))


def check_elements(what: str, shape: Shape) -> None:
    """Raises LimitExceededError where the known sizes of a shape make `LIMITS.elements` elements or more."""
    sizes = [n for n in shape if isinstance(n, int) and n > 0]
    if prod(sizes) >= LIMITS.elements and 0 not in shape:
        told = f"{what} has {' × '.join(map(str, sizes))} elements, {LIMITS.elements - 1:,} are the limit"
        raise LimitExceededError(f"{told}: give the model smaller inputs, or split it")
