"""Shape inference: what each operation does to the sizes of its inputs, symbolic sizes included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from decascade.algebra.conv import Conv, ConvTranspose, Pads
from decascade.errors import GraphError
from decascade.ir import dims
from decascade.ir.activations import check_activation
from decascade.ir.dims import UNKNOWN
from decascade.ir.graph import Dim, Graph, Node, Shape, Tensor
from decascade.ir.ops import (
    Activation,
    Add,
    Affine,
    BiasMap,
    Concat,
    Dense,
    Flatten,
    Foreign,
    GlobalPool,
    Identity,
    Op,
    Pad,
    Pool,
    Product,
    Select,
    Slice,
    Upsample,
)


def show(shape: Shape | None) -> str:
    """A shape in a message: (N, 3, 32, 32)."""
    return "unknown" if shape is None else f"({', '.join(map(str, shape))})"


def infer(op: Op, shapes: Sequence[Shape | None]) -> tuple[Shape | None, ...]:
    """The shapes of the outputs of `op` on inputs of these shapes.

    None where not even the rank is known; so for every `Foreign`, whose caller keeps what the format knows of it.

    Raises:
        GraphError: wrong number of inputs, or ranks, channels or sizes that do not fit the operation.
    """
    _check_arity(op, len(shapes))
    if isinstance(op, Foreign):
        return (None,)
    if isinstance(op, Add):
        return (_add(op, shapes),)
    if isinstance(op, Product):
        return (_product(shapes),)
    if isinstance(op, Concat):
        return (_concat(op, shapes),)
    x = _least(op) if shapes[0] is None else shapes[0]
    return (None if x is None else _unary(op, x),)


def infer_graph(graph: Graph) -> Graph:
    """The graph with every shape that can be inferred filled in.  Symbols give way to numbers.

    Tensors without an entry get one, of the element type of the node's first input.

    Raises:
        GraphError: an operation does not fit its inputs, or a stated shape not the inferred one; names node and shapes.
    """
    tensors: dict[str, Tensor] = dict(graph.tensors)
    for node in graph.nodes:
        for name, shape in zip(node.outputs, infer_node(node, tensors), strict=True):
            dtype = tensors[node.inputs[0]].dtype if node.inputs else "float32"
            known = tensors.get(name, Tensor(name, None, dtype))
            tensors[name] = replace(known, shape=_reconciled(node, name, known.shape, shape))
    return replace(graph, tensors=tensors)


def infer_node(node: Node, tensors: Mapping[str, Tensor]) -> tuple[Shape | None, ...]:
    """`infer` on a node, one entry per output; its errors name the node.

    Raises:
        GraphError: as `infer`, or an input without an entry, or a wrong number of outputs.
    """
    missing = [name for name in node.inputs if name not in tensors]
    if missing:
        raise GraphError(f"{node.name} reads {missing[0]}, which has no tensor entry")
    if not isinstance(node.op, Foreign) and len(node.outputs) != 1:
        raise GraphError(f"{node.name}: {type(node.op).__name__} has one output, the node writes {len(node.outputs)}")
    try:
        found = infer(node.op, [tensors[name].shape for name in node.inputs])
    except GraphError as error:
        raise GraphError(f"{node.name}: {error}") from None
    return (None,) * len(node.outputs) if isinstance(node.op, Foreign) else found


def _reconciled(node: Node, name: str, stated: Shape | None, found: Shape | None) -> Shape | None:
    if stated is None or found is None:
        return found if stated is None else stated
    # the inferred symbol first: it is derived from the graph's inputs, a stated one is often a serial number
    both = _unify(found, stated)
    if both is None:
        raise GraphError(f"{node.name}: writes {name} of shape {show(found)}, stated as {show(stated)}")
    return both


def _unify(a: Shape, b: Shape) -> Shape | None:
    if len(a) != len(b):
        return None
    joined = [dims.unified(m, n) for m, n in zip(a, b, strict=True)]
    return None if None in joined else tuple(d for d in joined if d is not None)


def compatible(a: Shape | None, b: Shape | None) -> bool:
    """Whether two shapes may be the same: equal ranks and no two numbers that differ."""
    return a is None or b is None or _unify(a, b) is not None


def _check_arity(op: Op, count: int) -> None:
    least = 0 if isinstance(op, Foreign) else 2 if isinstance(op, Add | Product) else 1
    most = None if isinstance(op, Foreign | Add | Product | Concat) else 1
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if least == most else f"{least} or more"
        raise GraphError(f"{type(op).__name__} takes {wanted} inputs, it has {count}")
    if isinstance(op, Add) and (len(op.signs) not in (0, count) or any(s not in (1, -1) for s in op.signs)):
        raise GraphError(f"Add signs {op.signs} for {count} inputs: give +1 or -1 per input, or none")


def _least(op: Op) -> Shape | None:
    """What the operation itself says of an input of which nothing is known."""
    match op:
        case Conv() | ConvTranspose():
            return (UNKNOWN, op.in_channels, *(UNKNOWN,) * op.rank)
        case BiasMap():
            return (UNKNOWN, *op.values.shape)
        case Pool():
            return (UNKNOWN, UNKNOWN, *(UNKNOWN,) * len(op.kernel))
        case _:
            return None


def _unary(op: Op, x: Shape) -> Shape:
    match op:
        case Conv() | ConvTranspose():
            return _layer(op, x)
        case Dense():
            return _dense(op, x)
        case Affine():
            return _affine(op, x)
        case Pool():
            return _pool(op, x)
        case GlobalPool():
            _need(op, x, None)
            return (*x[:2], *((1,) * (len(x) - 2) if op.keepdims else ()))
        case Flatten():
            _need(op, x, None)
            return (x[0], dims.product(x[1:]))
        case Pad():
            return _pad(op, x)
        case Select():
            return _select(op, x)
        case Slice():
            return _slice(op, x)
        case Upsample():
            _need(op, x, len(op.factor))
            if any(f < 1 for f in op.factor):
                raise GraphError(f"Upsample factor {op.factor} has an entry below 1")
            return (*x[:2], *map(dims.scaled, x[2:], op.factor))
        case BiasMap():
            return _bias_map(op, x)
        case Activation():
            check_activation(op, x[1] if len(x) > 1 and isinstance(x[1], int) else None, len(x))
            return x
        case Identity():
            return x
        case _:
            raise GraphError(f"no shape rule for {type(op).__name__}")


def _need(op: Op, x: Shape, rank: int | None) -> None:
    """At least batch and channels, and `rank` spatial axes if given."""
    if len(x) < 2 or (rank is not None and len(x) != rank + 2):
        wanted = "a batch and a channel axis" if rank is None else f"{rank} spatial axes after batch and channels"
        raise GraphError(f"{type(op).__name__} needs {wanted}, its input is {show(x)}")


def _channels(op: Op, x: Shape, wanted: int) -> None:
    if isinstance(x[1], int) and x[1] != wanted:
        raise GraphError(f"{type(op).__name__} is made for {wanted} channels, its input is {show(x)}")


def _positive(op: Op, x: Shape, size: Sequence[Dim]) -> tuple[Dim, ...]:
    if any(isinstance(n, int) and n < 1 for n in size):
        raise GraphError(f"{type(op).__name__} on {show(x)} leaves nothing: spatial size {show(tuple(size))}")
    return tuple(size)


def _windows(
    sizes: Shape, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Pads
) -> list[Dim]:
    """floor((n + before + after − (k − 1)·d − 1) / s) + 1 per axis."""
    fields = zip(sizes, kernel, stride, dilation, pads, strict=True)
    return [dims.strided(n, lo + hi - (k - 1) * d - 1 + s, s) for n, k, s, d, (lo, hi) in fields]


def _layer(op: Conv | ConvTranspose, x: Shape) -> Shape:
    _need(op, x, op.rank)
    _channels(op, x, op.in_channels)
    if isinstance(op, Conv):
        size = _windows(x[2:], op.kernel, op.stride, op.dilation, op.padding)
    else:
        fields = zip(x[2:], op.kernel, op.stride, op.dilation, op.padding, strict=True)
        size = [dims.shifted(dims.scaled(n, s), (k - 1) * d + 1 - s - lo - hi) for n, k, s, d, (lo, hi) in fields]
    return (x[0], op.out_channels, *_positive(op, x, size))


def _dense(op: Dense, x: Shape) -> Shape:
    if op.layer.rank:
        raise GraphError(f"Dense has a layer over {op.layer.rank} spatial axes: its weight must be (O, I)")
    if not x or (isinstance(x[-1], int) and x[-1] != op.layer.in_channels):
        raise GraphError(f"Dense is made for {op.layer.in_channels} features, its input is {show(x)}")
    return (*x[:-1], op.layer.out_channels)


def _affine(op: Affine, x: Shape) -> Shape:
    _need(op, x, None)
    if op.scale.ndim != 1 or op.scale.shape != op.shift.shape:
        raise GraphError(f"Affine scale {op.scale.shape} and shift {op.shift.shape} must both be (C,)")
    _channels(op, x, len(op.scale))
    return (x[0], len(op.scale), *x[2:])


def _pool(op: Pool, x: Shape) -> Shape:
    _need(op, x, len(op.kernel))
    fields = {"stride": op.stride, "padding": op.padding, "dilation": op.dilation}
    for name, values in fields.items():
        if len(values) != len(op.kernel):
            raise GraphError(f"Pool {name} {values} has {len(values)} entries for {len(op.kernel)} axes")
    if any(v < 1 for v in (*op.kernel, *op.stride, *op.dilation)):
        raise GraphError(f"Pool kernel {op.kernel}, stride {op.stride} or dilation {op.dilation} has an entry below 1")
    return (*x[:2], *_positive(op, x, _windows(x[2:], op.kernel, op.stride, op.dilation, op.padding)))


def _pad(op: Pad, x: Shape) -> Shape:
    _need(op, x, len(op.pads))
    size = [dims.shifted(n, lo + hi) for n, (lo, hi) in zip(x[1:], (op.channels, *op.pads), strict=True)]
    return (x[0], *_positive(op, x, size))


def _select(op: Select, x: Shape) -> Shape:
    _need(op, x, None)
    if op.indices.ndim != 1 or not op.indices.size:
        raise GraphError(f"Select indices of shape {op.indices.shape} must be a list of at least one channel")
    low, high = int(op.indices.min()), int(op.indices.max())
    if low < 0 or (isinstance(x[1], int) and high >= x[1]):
        raise GraphError(f"Select picks channels {low} to {high}, its input is {show(x)}")
    return (x[0], op.indices.size, *x[2:])


def _slice(op: Slice, x: Shape) -> Shape:
    _need(op, x, None)
    if not 2 <= op.axis < len(x):
        raise GraphError(f"Slice axis {op.axis} is not a spatial axis of {show(x)}")
    size = x[op.axis]
    if not 0 <= op.start < op.stop or (isinstance(size, int) and op.stop > size):
        raise GraphError(f"Slice {op.start}:{op.stop} is empty or outside axis {op.axis} of {show(x)}")
    return (*x[: op.axis], op.stop - op.start, *x[op.axis + 1 :])


def _bias_map(op: BiasMap, x: Shape) -> Shape:
    both = _unify(x, (UNKNOWN, *op.values.shape))
    if both is None:
        raise GraphError(f"BiasMap of shape {op.values.shape} does not fit its input {show(x)}")
    return both


def _add(op: Add, shapes: Sequence[Shape | None]) -> Shape | None:
    known = [s for s in shapes if s is not None]
    joined = known[0] if known else None
    for shape in known[1:]:
        joined = None if joined is None else _unify(joined, shape)
        if joined is None:
            raise GraphError(f"Add inputs differ in shape: {', '.join(map(show, shapes))}")
    return joined


def multiplies(shapes: Sequence[Shape | None]) -> bool:
    """Whether tensors of these shapes make a `Product` beyond doubt: a size that is not known could be 1 and be repeated."""
    known = [shape for shape in shapes if shape is not None]
    if not 2 <= len(shapes) == len(known) or len({len(shape) for shape in known}) > 1 or len({shape[0] for shape in known}) > 1:
        return False
    return all(len({*sizes} - {1}) <= 1 and UNKNOWN not in sizes for sizes in zip(*(s[1:] for s in known), strict=True))


def _product(shapes: Sequence[Shape | None]) -> Shape | None:
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    if len({len(shape) for shape in known}) > 1:
        raise GraphError(f"Product inputs differ in rank: {', '.join(map(show, shapes))}")
    joined: Shape = (1,) * len(known[0])
    for shape in known:
        fields = list(zip(joined, shape, strict=True))
        if any(isinstance(a, int) and isinstance(b, int) and a != b and 1 not in (a, b) for a, b in fields):
            raise GraphError(f"Product inputs differ in shape: {', '.join(map(show, shapes))}")
        # what is not known could be 1: beside a larger number it does not matter
        joined = tuple(b if a == 1 or (isinstance(b, int) and b != 1) else a for a, b in fields)
    return joined


def _concat(op: Concat, shapes: Sequence[Shape | None]) -> Shape | None:
    known = [s for s in shapes if s is not None]
    if any(not 0 <= op.axis < len(s) for s in known):
        raise GraphError(f"Concat axis {op.axis} is outside one of its inputs {', '.join(map(show, shapes))}")
    joined: Shape | None = None
    for shape in known:
        rest = (*shape[: op.axis], UNKNOWN, *shape[op.axis + 1 :])
        joined = rest if joined is None else _unify(joined, rest)
        if joined is None:
            raise GraphError(f"Concat inputs differ off axis {op.axis}: {', '.join(map(show, shapes))}")
    if joined is None:
        return None
    along = dims.total([s[op.axis] for s in known]) if len(known) == len(shapes) else UNKNOWN
    return (*joined[: op.axis], along, *joined[op.axis + 1 :])
