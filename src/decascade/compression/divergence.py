"""How far a student's outputs are from the original's, by the kind of each output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.ops import Activation, Op

Loss = Literal["auto", "kl", "mse"]
LOSSES = ("auto", "kl", "mse")


@dataclass(frozen=True)
class Output:
    """A graph output and what is compared for it: the tensor `compared`, as class scores before a softmax ("kl": the mean
    Kullback–Leibler divergence of the class probabilities, in nats) or as numbers ("mse": squared error over the variance)."""

    name: str
    compared: str
    kind: Literal["kl", "mse"]


def outputs_of(graph: Graph, loss: str = "auto", labelled: bool = False) -> tuple[Output, ...]:
    """One entry per output.  "auto": "kl" where the output is a softmax over channels, or vectors for which labels are given,
    else "mse".

    Raises:
        UsageError: an unknown loss.
    """
    if loss not in LOSSES:
        raise UsageError(f"loss = {loss!r}: give one of {', '.join(LOSSES)}")
    return tuple(_output(graph, name, loss, labelled) for name in graph.outputs)


def _output(graph: Graph, name: str, loss: str, labelled: bool) -> Output:
    producer, shape = graph.producer.get(name), graph.shape(name)
    softmax = producer is not None and shape is not None and _over_channels(producer.op, len(shape))
    compared = producer.inputs[0] if softmax and producer is not None else name
    classes = softmax or (labelled and shape is not None and len(shape) == 2)
    kind = ("kl" if classes else "mse") if loss == "auto" else loss
    return Output(name, compared, "kl" if kind == "kl" else "mse")


def _over_channels(op: Op, rank: int) -> bool:
    return isinstance(op, Activation) and op.kind == "softmax" and int(op.params[0]) % rank == 1


def divergence(outputs: tuple[Output, ...], original: Mapping[str, Any], student: Mapping[str, Any]) -> Any:
    """The mean over samples, summed over outputs; tensors by `Output.compared`, (N, C, *S)."""
    torch: Any = import_module("torch")
    total: Any = 0.0
    for output in outputs:
        a, b = original[output.compared].float(), student[output.compared].float()
        if output.kind == "kl":
            p, q = torch.log_softmax(a, 1), torch.log_softmax(b, 1)
            total = total + (p.exp() * (p - q)).sum(1).mean()
        else:
            total = total + ((a - b) ** 2).mean() / a.var(correction=0).clamp_min(1e-30)
    return total
