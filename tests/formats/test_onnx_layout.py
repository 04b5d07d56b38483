"""Reshapes, transposes, slices, splits and gathers, alone and in chains: what they select, and what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decascade.formats.onnx.format import FORMAT
from decascade.ir.ops import Flatten, Identity, Pad, Select, Slice
from formats.onnx_cases import Array, N, ints, model, ops, read, rewrite

FOUR = ("N", 6, 4, 5)
STEPPED = N("Slice", ["x", "b", "e", "a", "s"], ["y"])
ALIKE: dict[str, tuple[int, list[Any], dict[str, Array], tuple[Any, ...], Any]] = {
    "flatten": (13, [N("Flatten", ["x"], ["y"])], {}, FOUR, Flatten()),
    "flatten_negative": (13, [N("Flatten", ["x"], ["y"], axis=-3)], {}, FOUR, Flatten()),
    "flatten_flat": (13, [N("Flatten", ["x"], ["y"])], {}, ("N", 6), Identity()),
    "reshape_zero": (13, [N("Reshape", ["x", "s"], ["y"])], {"s": ints(0, -1)}, FOUR, Flatten()),
    "reshape_batch": (13, [N("Reshape", ["x", "s"], ["y"])], {"s": ints(-1, 120)}, FOUR, Flatten()),
    "reshape_fixed": (7, [N("Reshape", ["x", "s"], ["y"])], {"s": ints(2, 120)}, (2, 6, 4, 5), Flatten()),
    "reshape_one": (13, [N("Reshape", ["x", "s"], ["y"])], {"s": ints(1, -1)}, (1, 6, 4, 5), Flatten()),
    "reshape_open": (13, [N("Reshape", ["x", "s"], ["y"])], {"s": ints(0, -1)}, ("N", 6, "H", "W"), Flatten()),
    "reshape_same": (13, [N("Reshape", ["x", "s"], ["y"])], {"s": ints(0, 6, -1, 5)}, FOUR, Identity()),
    "squeeze": (11, [N("Squeeze", ["x"], ["y"], axes=[2, -1])], {}, ("N", 6, 1, 1), Flatten()),
    "squeeze_input": (13, [N("Squeeze", ["x", "a"], ["y"])], {"a": ints(3, 2)}, ("N", 6, 1, 1), Flatten()),
    "squeeze_all": (13, [N("Squeeze", ["x"], ["y"])], {}, (2, 6, 1, 1), Flatten()),
    "transpose_same": (13, [N("Transpose", ["x"], ["y"], perm=[0, 1, 2, 3])], {}, FOUR, Identity()),
    "identity": (13, [N("Identity", ["x"], ["y"])], {}, FOUR, Identity()),
    "dropout": (7, [N("Dropout", ["x"], ["y"])], {}, FOUR, Identity()),
    "dropout_input": (
        13, [N("Dropout", ["x", "r", "t"], ["y"])], {"r": np.float32(0.5), "t": np.array(False)}, FOUR, Identity()
    ),
    "cast": (13, [N("Cast", ["x"], ["y"], to=1)], {}, FOUR, Identity()),
    "channels_last": (
        13, [N("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), N("Reshape", ["t", "s"], ["y"])], {"s": ints(0, -1)}, FOUR,
        Flatten("channels_last"),
    ),
    "channels_last_open": (
        13, [N("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), N("Flatten", ["t"], ["y"])], {}, ("N", 6, "H", "W"),
        Flatten("channels_last"),
    ),
    "slice_space": (9, [N("Slice", ["x"], ["y"], axes=[2], starts=[1], ends=[3])], {}, FOUR, Slice(2, 1, 3)),
    "slice_space_end": (
        13, [N("Slice", ["x", "b", "e", "a"], ["y"])], {"b": ints(-3), "e": ints(2**62), "a": ints(-1)}, FOUR, Slice(3, 2, 5)
    ),
    "slice_border": (
        13, [N("Slice", ["x", "b", "e", "a"], ["y"])], {"b": ints(1, 0), "e": ints(2**62, -2), "a": ints(2, 3)}, FOUR,
        Pad(((-1, 0), (0, -2))),
    ),
    "slice_nothing": (13, [N("Slice", ["x", "b", "e"], ["y"])], {"b": ints(0, 0), "e": ints(2**40, 6)}, FOUR, Identity()),
    "unsqueeze_and_back": (
        13, [N("Unsqueeze", ["x", "a"], ["t"]), N("Squeeze", ["t", "a"], ["y"])], {"a": ints(1, -1)}, FOUR, Identity()
    ),
}


@pytest.mark.parametrize("case", ALIKE)
def test_moves(case: str) -> None:
    opset, nodes, weights, shape, wanted = ALIKE[case]
    proto = model(nodes, shape, weights, opset)
    document = read(proto, {"H": 3, "W": 4})
    assert [node.op for node in document.graph.nodes] == [wanted]
    assert document.graph.nodes[0].origin == tuple(f"{n.op_type}_{k}" for k, n in enumerate(nodes))
    rewrite(proto, {"H": 3, "W": 4})


SELECTS: dict[str, tuple[int, list[Any], dict[str, Array], tuple[Any, ...], list[int]]] = {
    "slice": (9, [N("Slice", ["x"], ["y"], axes=[1], starts=[1], ends=[4])], {}, FOUR, [1, 2, 3]),
    "slice_default_axes": (9, [N("Slice", ["x"], ["y"], starts=[0, 2], ends=[2**31 - 1, -1])], {}, FOUR, [2, 3, 4]),
    "slice_step": (
        10, [STEPPED], {"b": ints(1), "e": ints(99), "a": ints(1), "s": ints(2)}, FOUR, [1, 3, 5]
    ),
    "slice_backward": (
        13, [STEPPED], {"b": ints(-1), "e": ints(-(2**63)), "a": ints(1), "s": ints(-1)},
        FOUR, [5, 4, 3, 2, 1, 0],
    ),
    "slice_backward_part": (
        13, [STEPPED], {"b": ints(4), "e": ints(0), "a": ints(-3), "s": ints(-2)}, FOUR, [4, 2]
    ),
    "gather": (13, [N("Gather", ["x", "i"], ["y"], axis=1)], {"i": ints(5, -6, 0, 3)}, FOUR, [5, 0, 0, 3]),
    "gather_one": (13, [N("Gather", ["x", "i"], ["y"], axis=-3)], {"i": ints(4)}, FOUR, [4]),
    "gather_open": (13, [N("Gather", ["x", "i"], ["y"], axis=1)], {"i": ints(1, 0)}, ("N", 6, "H", "W"), [1, 0]),
    "gather_and_back": (
        13, [N("Gather", ["x", "i"], ["t"], axis=1), N("Unsqueeze", ["t", "a"], ["y"])],
        {"i": np.array(4), "a": ints(1)}, FOUR, [4],
    ),
    "shuffle": (
        11,
        [N("Reshape", ["x", "s"], ["t"]), N("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3, 4]), N("Reshape", ["u", "r"], ["y"])],
        {"s": ints(0, 2, 3, 4, 5), "r": ints(-1, 6, 4, 5)}, FOUR, [0, 3, 1, 4, 2, 5],
    ),
    "shuffle_open": (
        11, [N("Reshape", ["x", "s"], ["t"]), N("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3]), N("Reshape", ["u", "r"], ["y"])],
        {"s": ints(0, 3, 2, -1), "r": ints(0, 6, 4, 5)}, FOUR, [0, 2, 4, 1, 3, 5],
    ),
    "shuffle_then_slice": (
        11,
        [N("Reshape", ["x", "s"], ["t"]), N("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3, 4]), N("Reshape", ["u", "r"], ["v"]),
         N("Slice", ["v", "b", "e", "a"], ["y"])],
        {"s": ints(0, 2, 3, 4, 5), "r": ints(0, 6, 4, 5), "b": ints(1), "e": ints(5), "a": ints(1)}, FOUR, [3, 1, 4, 2],
    ),
}


@pytest.mark.parametrize("case", SELECTS)
def test_selections_of_channels(case: str) -> None:
    opset, nodes, weights, shape, wanted = SELECTS[case]
    proto = model(nodes, shape, weights, opset)
    graph = read(proto, {"H": 3, "W": 4}).graph
    picked = np.arange(6)
    for node in graph.nodes:
        assert isinstance(node.op, Select)
        picked = picked[node.op.indices]
    assert picked.tolist() == wanted
    rewrite(proto, {"H": 3, "W": 4})


SPLITS: dict[str, tuple[int, Any, dict[str, Array]]] = {
    "attribute": (11, N("Split", ["x"], ["a", "b", "c"], axis=1, split=[1, 2, 3]), {}),
    "even": (11, N("Split", ["x"], ["a", "b", "c"], axis=1), {}),
    "input": (13, N("Split", ["x", "s"], ["a", "b", "c"], axis=-3), {"s": ints(3, 1, 2)}),
    "count": (18, N("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3), {}),
    "space": (13, N("Split", ["x", "s"], ["a", "b", "c"], axis=3), {"s": ints(1, 1, 3)}),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits(case: str) -> None:
    opset, node, weights = SPLITS[case]
    proto = model([node], FOUR, weights, opset, outputs=("a", "b", "c"))
    document = read(proto)
    assert ops(document) == ["Slice" if case == "space" else "Select"] * 3
    assert {n.origin for n in document.graph.nodes} == {("Split_0",)}
    assert len({n.name for n in document.graph.nodes}) == 3
    rewrite(proto)


def test_an_uneven_split_by_count() -> None:
    node = N("Split", ["x"], ["a", "b", "c", "d"], axis=1, num_outputs=4)
    proto = model([node], ("N", 7, 4, 4), opset=18, outputs=("a", "d"))
    graph = read(proto).graph
    assert [n.op.indices.tolist() for n in graph.nodes] == [[0, 1], [6]]  # type: ignore[union-attr]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_shuffle_that_ends_in_two_gathers(batch: int) -> None:
    """As ShuffleNetV2 has it: through the batch axis, (b·c/2, 2, h·w) to (2, b·c/2, h·w) to two halves."""
    nodes = [
        N("Reshape", ["x", "s"], ["t"]),
        N("Transpose", ["t"], ["u"], perm=[1, 0, 2]),
        N("Reshape", ["u", "r"], ["v"]),
        N("Gather", ["v", "zero"], ["a"], axis=0),
        N("Gather", ["v", "one"], ["b"], axis=0),
    ]
    weights = {"s": ints(batch * 3, 2, 20), "r": ints(2, -1, 3, 4, 5), "zero": np.array(0), "one": np.array(1)}
    proto = model(nodes, (batch, 6, 4, 5), weights, 11, outputs=("a", "b"))
    document = read(proto)
    assert [n.op.indices.tolist() for n in document.graph.nodes] == [[0, 2, 4], [1, 3, 5]]  # type: ignore[union-attr]
    rewrite(proto)


def test_parts_that_share_moves_keep_them_until_the_last_is_gone() -> None:
    nodes = [N("Split", ["x"], ["a", "b"], axis=1), N("Relu", ["a"], ["p"]), N("Relu", ["b"], ["q"])]
    proto = model(nodes, FOUR, opset=11, outputs=("p", "q"))
    document = FORMAT.read(proto)
    assert FORMAT.write(document, document.graph) == proto


FOREIGN: dict[str, tuple[list[Any], dict[str, Array], tuple[Any, ...]]] = {
    "transpose": ([N("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])], {}, FOUR),
    "batch to channels": ([N("Reshape", ["x", "s"], ["y"])], {"s": ints(1, -1, 4, 5)}, (2, 6, 4, 5)),
    "space to channels": ([N("Reshape", ["x", "s"], ["y"])], {"s": ints(0, 12, 2, 5)}, FOUR),
    "flatten 2": ([N("Flatten", ["x"], ["y"], axis=2)], {}, FOUR),
    "flat to one row": ([N("Reshape", ["x", "s"], ["y"])], {"s": ints(1, -1)}, FOUR),
    "gather of batch": ([N("Gather", ["x", "i"], ["y"], axis=0)], {"i": ints(1, 0)}, (2, 6, 4, 5)),
    "gather of space": ([N("Gather", ["x", "i"], ["y"], axis=2)], {"i": ints(2, 0)}, FOUR),
    "gather drops the axis": ([N("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array(2)}, FOUR),
    "slice of two axes": ([N("Slice", ["x", "b", "e"], ["y"])], {"b": ints(0, 1, 1), "e": ints(2**31, 3, 3)}, FOUR),
    "slice with a step": (
        [STEPPED], {"b": ints(0), "e": ints(9), "a": ints(2), "s": ints(2)}, FOUR
    ),
    "depth to space": ([N("DepthToSpace", ["x"], ["y"], blocksize=2)], {}, ("N", 8, 4, 5)),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_moves_that_are_carried_through(case: str) -> None:
    nodes, weights, shape = FOREIGN[case]
    assert ops(read(model(nodes, shape, weights))) == [f"[{nodes[0].op_type}]"]


def test_a_chain_with_a_reader_in_its_middle_is_carried_through() -> None:
    nodes = [
        N("Reshape", ["x", "s"], ["t"]),
        N("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3, 4]),
        N("Reshape", ["u", "r"], ["y"]),
        N("Relu", ["u"], ["z"]),
    ]
    weights = {"s": ints(0, 2, 3, 4, 5), "r": ints(0, 6, 4, 5)}
    proto = model(nodes, FOUR, weights, outputs=("y", "z"))
    assert ops(read(proto)) == ["[Reshape]", "[Transpose]", "[Reshape]", "Activation"]
    chain = model(nodes[:3], FOUR, weights, outputs=("y", "u"))
    assert ops(read(chain)) == ["[Reshape]", "[Transpose]", "[Reshape]"]


def test_a_transpose_that_mixes_channels_with_space_is_no_shuffle() -> None:
    nodes = [N("Reshape", ["x", "s"], ["t"]), N("Transpose", ["t"], ["u"], perm=[0, 2, 1, 3]), N("Reshape", ["u", "r"], ["y"])]
    proto = model(nodes, ("N", 6, 4, 4), {"s": ints(0, 6, 4, 4), "r": ints(0, 6, 4, 4)})
    assert ops(read(proto)) == ["Identity", "[Transpose]", "[Reshape]"]


def test_a_reshape_to_a_computed_shape() -> None:
    """What exporters write for x.view(x.size(0), -1) with an open batch."""
    nodes = [
        N("Shape", ["x"], ["shape"]),
        N("Gather", ["shape", "zero"], ["n"], axis=0),
        N("Unsqueeze", ["n", "axis"], ["m"]),
        N("Concat", ["m", "rest"], ["target"], axis=0),
        N("Reshape", ["x", "target"], ["t"]),
        N("Gemm", ["t", "w"], ["y"], transB=1),
    ]
    weights = {"zero": np.array(0), "axis": ints(0), "rest": ints(-1), "w": np.ones((3, 120), np.float32)}
    fixed = model(nodes, (2, 6, 4, 5), weights)
    assert ops(read(fixed)) == ["Flatten", "Dense"]
    rewrite(fixed)
    proto = model(nodes, FOUR, weights)
    document = read(proto)
    assert ops(document)[-2:] == ["Flatten", "Dense"]
    rewrite(proto)
