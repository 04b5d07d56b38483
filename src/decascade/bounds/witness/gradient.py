"""Gradients of neurons with respect to the inputs, many samples at once, in the samples' own precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from decascade.bounds.adjoint import Form, can_pull, clipped, merged, pull
from decascade.bounds.backward import EXACT
from decascade.bounds.forward import Values, column, fit, run, taps
from decascade.bounds.regimes import value
from decascade.ir.graph import Graph, Node
from decascade.ir.ops import Activation, Foreign, GlobalPool, Pool, Product
from decascade.ir.ops.table import Table
from decascade.ir.ops.traits import is_element_wise

Watch = Callable[[str, Values], None]


def gradient(
    graph: Graph, inputs: Mapping[str, Values], name: str, seed: Callable[[Values], Form], watch: Watch
) -> dict[str, Form]:
    """Per sample the gradient of a form on a tensor with respect to the inputs.

    `inputs` (C, *S, N).  `seed`: the form from the tensor's values, its last axis the sample axis.  `watch` is shown every
    tensor on the way.
    """
    needed = {name for n in graph.nodes if not can_pull(n.op) for name in n.inputs}
    shapes, values = dict[str, tuple[int, ...]](), dict[str, Values]()

    def see(tensor: str, x: Values) -> None:
        watch(tensor, x)
        shapes[tensor] = x.shape[:-1]
        if tensor in needed or tensor == name:
            values[tensor] = x

    run(graph, inputs, see, stop_after=name)
    forms = {name: seed(values[name])}
    for node in reversed(graph.nodes):
        if len(node.outputs) != 1 or node.output not in forms:
            continue
        form = forms.pop(node.output)
        for source, back in zip(node.inputs, _back(node, form, shapes, values), strict=False):
            forms[source] = merged(forms[source], back) if source in forms else back
    return {n: forms[n] for n in graph.inputs if n in forms}


def _back(node: Node, form: Form, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Values]) -> Sequence[Form]:
    if can_pull(node.op):
        return pull(node.op, form, [shapes[n] for n in node.inputs])[0]
    rule = GRADIENTS.get(node.op)
    return [] if rule is None else rule(node.op, form, [values[n] for n in node.inputs])


def _to_argument(op: Activation, form: Form, values: Sequence[Values]) -> list[Form]:
    if not is_element_wise(op):
        return []
    return [Form(form.coefficients * slope(op, values[0][form.where]), form.window)]


def _to_factors(_: Product, form: Form, values: Sequence[Values]) -> list[Form]:
    return [_to_factor(form, i, values) for i in range(len(values))]


def slope(op: Activation, x: Values) -> Values:
    """The derivative of an activation, by a difference where it is not a ReLU's."""
    if op.kind == "relu":
        return (x > 0).astype(x.dtype)
    if op.slope is not None:
        return np.where(x > 0, x.dtype.type(1), column(op.slope.astype(x.dtype), x.ndim))
    exact = x.astype(np.float64)
    step = 1e-4 * (1 + np.abs(exact))
    return ((value(op, exact + step) - value(op, exact - step)) / (2 * step)).astype(x.dtype)


def _to_factor(form: Form, i: int, factors: Sequence[Values]) -> Form:
    """A form on a product as one on its i-th factor: times the others, summed along the axes over which it is repeated."""
    whole = np.broadcast_shapes(*(f.shape for f in factors))
    a = form.coefficients
    for k, factor in enumerate(factors):
        if k != i:
            a = a * np.broadcast_to(factor, whole)[form.where]
    repeated = tuple(axis for axis, (n, full) in enumerate(zip(factors[i].shape, whole, strict=True)) if n < full)
    window = tuple((0, 1) if axis in repeated else w for axis, w in enumerate(form.window, start=1))
    return Form(a.sum(axis=repeated, keepdims=True) if repeated else a, window)


def _to_winner(op: Pool | GlobalPool, form: Form, values: Sequence[Values]) -> list[Form]:
    x = values[0]
    size, a = x.shape[1:-1], form.coefficients
    if isinstance(op, GlobalPool):
        a = a.reshape(a.shape[0], *(1,) * len(size), a.shape[-1])
        form = Form(a, ((0, 1),) * len(size))
        op = Pool("max", size, (1,) * len(size), ((0, 0),) * len(size), (1,) * len(size))
    padded = fit(x, op.padding, -np.inf)
    count = tuple((n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(
        padded.shape[1:-1], op.kernel, op.dilation, op.stride, strict=True))
    cuts = list(taps(op.kernel, op.stride, op.dilation, count))
    winner = np.stack([padded[(slice(None), *at)] for _, at in cuts]).argmax(axis=0)[form.where]
    lengths = [(q - p - 1) * s + (k - 1) * d + 1
               for (p, q), s, k, d in zip(form.window, op.stride, op.kernel, op.dilation, strict=True)]
    buffer = np.zeros((a.shape[0], *lengths, a.shape[-1]), a.dtype)
    for i, (_, at) in enumerate(taps(op.kernel, op.stride, op.dilation, a.shape[1:-1])):
        buffer[(slice(None), *at)] += np.where(winner == i, a, a.dtype.type(0))
    starts = [w[0] * s - p[0] for w, s, p in zip(form.window, op.stride, op.padding, strict=True)]
    return [clipped(buffer, starts, size)]


GRADIENTS: Table[Callable[[Any, Form, Sequence[Values]], list[Form]]] = Table(
    "gradients",
    {Activation: _to_argument, Product: _to_factors, Pool: _to_winner, GlobalPool: _to_winner},
    {**EXACT, Foreign: "no gradient passes what is not understood"},
)
"""The forms on the inputs of what is not linear; no gradient passes what has no rule.

The maximum is the only pool that comes here: averages are linear."""

__all__ = ["Watch", "gradient", "slope"]
