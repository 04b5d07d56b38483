"""A published ResNet-20 with linear pairs of layers, merged: every prediction stays, where the merge by hand changes some.

`../shared/models/layerfolding_resnet20.onnx` is merged with both policies, and its three linear conv-BN-conv-BN pairs are
merged by hand (one kernel, paddings added up).  500 CIFAR-10 test images are put to the float64 interpreter and, as are the
10,000 of training part 4, to onnxruntime.

    python benchmarks/merged_resnet20_keeps_every_prediction.py [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.progress import track

import decascade
from decascade.formats.onnx.format import FORMAT
from decascade.ir.graph import Graph, Node
from decascade.ir.interpret import run
from decascade.ir.ops import Affine
from decascade.regions.lower import is_convolution
from support.naive import naive_conv, naive_merge
from support.results import Partial, write_results
from support.setup import DATA, MODELS

NAME = "merged_resnet20_keeps_every_prediction"
MODEL = MODELS / "layerfolding_resnet20.onnx"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
BATCH = 100


def images(name: str, count: int) -> tuple[Any, Any]:
    """Images in the model's preprocessing (models/INDEX.md), and labels where the file has them."""
    with np.load(DATA / name) as file:
        x = file["x"][:count].astype(np.float64)
        y = file["y"][:count].reshape(-1) if "y" in file else None
    return ((x / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32), y


def linear_pairs(graph: Graph) -> list[list[Node]]:
    """Runs of convolutions and normalisations that feed nothing else, with two convolutions or more."""
    runs, taken = [], set[str]()
    for node in graph.nodes:
        part = list[Node]()
        while node.name not in taken and (is_convolution(node) or isinstance(node.op, Affine)) and len(node.inputs) == 1:
            part.append(node)
            taken.add(node.name)
            readers = graph.consumers[node.output]
            if len(readers) != 1 or node.output in graph.outputs:
                break
            node = readers[0]
        if sum(map(is_convolution, part)) > 1 and all(len(graph.shape(n.output) or ()) == 4 for n in part):
            runs.append(part)
    return runs


def by_hand(graph: Graph) -> tuple[Graph, int]:
    """The graph with each such run replaced by one convolution, and their number."""
    runs = linear_pairs(graph)
    for part in runs:
        entry, exit_ = part[0].inputs[0], part[-1].output
        alone = replace(graph, nodes=tuple(part), inputs=(entry,), outputs=(exit_,))
        kernel, _ = naive_merge(alone)
        conv = naive_conv(kernel, graph.spatial(entry) or (), graph.spatial(exit_) or ())
        merged = Node(f"{part[-1].name}_by_hand", conv, (entry,), (exit_,))
        gone = {n.name for n in part}
        graph = graph.with_nodes([*(n for n in graph.nodes if n.name not in gone), merged])
    return graph, len(runs)


def logits(model: Any, x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + BATCH]})[0] for i in range(0, len(x), BATCH)])


def oracle(graph: Graph, x: Any) -> Any:
    name, out = graph.inputs[0], graph.outputs[0]
    parts = track(range(0, len(x), 50), description="float64")
    return np.concatenate([run(graph, {name: x[i : i + 50]})[out] for i in parts])


def figures(model: Any, test: Any, labels: Any, exact: Any, original: Any, train: Any) -> dict[str, Any]:
    """What one variant does; `original` is None for the original itself."""
    on_test, on_train = logits(model, test), logits(model, train)
    error = np.abs(on_test - exact)
    found = {
        "convolutions": sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in model.graph.node),
        "accuracy": float((on_test.argmax(1) == labels).mean()),
        "worst_float32_error": float(error.max()),
        "rms_float32_error": float(np.sqrt((error**2).mean())),
        "train_predictions": on_train.argmax(1).tolist(),
        "test_logits": on_test.tolist(),
    }
    first, second = (on_test, found["train_predictions"]) if original is None else original
    return found | {
        "changed_on_test": int((on_test.argmax(1) != np.asarray(first).argmax(1)).sum()),
        "changed_on_train": int((on_train.argmax(1) != np.asarray(second)).sum()),
        "worst_logit_difference": float(np.abs(on_test - np.asarray(first)).max()),
    }


def variants() -> dict[str, tuple[Any, Any]]:
    """Models by name, each with what is known of its merges."""
    document = FORMAT.read(onnx.load(str(MODEL)))
    hand, pairs = by_hand(document.graph)
    found: dict[str, tuple[Any, Any]] = {"original": (onnx.load(str(MODEL)), {})}
    for policy in ("profitable", "always"):
        result = decascade.merge(onnx.load(str(MODEL)), policy=policy, verify=False)
        kernels = {name for n in document.graph.nodes if is_convolution(n) for name in n.origin}
        # a normalisation folded into its own layer is no merge to speak of
        rows = [c for c in result.report.cascades if c.decision == "merged" and len(kernels.intersection(c.layers)) > 1]
        facts = {"merged": [list(c.layers) for c in rows], "reasons": [c.reason for c in rows],
                 "macs": result.report.cost.after, "macs_before": result.report.cost.before}
        found[f"decascade {policy}"] = (result.model, facts)
    found["naive merge (by hand)"] = (FORMAT.write(document, hand), {"merged": [[n.name for n in r] for r in linear_pairs(
        document.graph)], "pairs": pairs})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 test and 500 training images")
    quick = parser.parse_args().quick
    if not MODEL.exists():
        raise SystemExit("needs ../shared/models/layerfolding_resnet20.onnx beside the checkout")
    test, labels = images("cifar10_test_first500.npz", 100 if quick else 500)
    train, _ = images("cifar10_train_part4.npz", 500 if quick else 10_000)
    exact = oracle(FORMAT.read(MODEL).graph, test)
    partial, original, found = Partial(NAME, {"quick": quick}), None, {}
    for name, (model, facts) in variants().items():
        if name not in partial.done:
            partial.put(name, figures(model, test, labels, exact, original, train) | facts)
        found[name] = dict(partial.done[name])
        original = original or (found[name]["test_logits"], found[name]["train_predictions"])
    for f in found.values():
        f.pop("test_logits")
        f.pop("train_predictions")
        f["float32_error_ratio"] = f["rms_float32_error"] / found["original"]["rms_float32_error"]
        f["worst_float32_error_ratio"] = f["worst_float32_error"] / found["original"]["worst_float32_error"]
    report(found, len(test), len(train))
    partial.clear()


def report(found: dict[str, dict[str, Any]], test: int, train: int) -> None:
    rows = [
        [name, str(len(f.get("merged", []))), f"{f['accuracy']:.1%}", f"{f['changed_on_test']}", f"{f['changed_on_train']}",
         f"{f['worst_logit_difference']:.2g}", f"{f['rms_float32_error']:.2g}", f"{f['float32_error_ratio']:.2f}",
         f"{f['worst_float32_error_ratio']:.2f}", str(f["convolutions"]), f"{f['macs'] / 1e6:.2f} M" if "macs" in f else ""]
        for name, f in found.items()
    ]
    header = ["", "merges", f"accuracy, {test} test images", "predictions changed", f"changed of {train:,} train images",
              "worst logit difference", "float32 error (rms, against float64)", "its ratio to the original's",
              "ratio of the worst errors", "Conv/Gemm nodes", "MACs"]
    merges = [[name, " → ".join(layers), f["reasons"][i] if "reasons" in f else ""]
              for name, f in found.items() for i, layers in enumerate(f.get("merged", []))]
    write_results(NAME, {"variants": found, "test_images": test, "train_images": train}, [
        ("Layer-Folding ResNet-20 on CIFAR-10, onnxruntime, one thread", header, rows),
        ("What was merged", ["", "layers", "how"], merges),
    ])


if __name__ == "__main__":
    main()
