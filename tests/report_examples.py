"""Reports for tests: of a merge, a proof and a compress run, made by the commands themselves, and one written by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import numpy as np
import pytest

import decascade as dc
from decascade.report.facts.parts import (
    CompressionFacts,
    Curve,
    FrontPoint,
    GraphFacts,
    Measure,
    NodeFacts,
    StudentFacts,
    WidthPoint,
)
from decascade.report.facts.report import CascadeFacts, CostFacts, Report
from proven_models import saved

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits.onnx"
SCHEMA: dict[str, Any] = json.loads((Path(dc.__file__).parent / "report" / "schema.json").read_text())


@cache
def merged() -> Report:
    return dc.merge(DIGITS).report


@cache
def proven() -> Report:
    with TemporaryDirectory() as folder:
        return dc.merge(saved("half_stable", ".onnx", Path(folder)), input_range=(0, 1)).report


@cache
def compressed_run() -> Report:
    """A compress run on random samples, without training."""
    pytest.importorskip("torch", reason="torch is not installed: pip install decascade[torch]")
    x = np.random.default_rng(0).random((64, 2, 8, 8), dtype=np.float32)
    with TemporaryDirectory() as folder:
        return dc.compress(saved("half_stable", ".onnx", Path(folder)), x, speedup=1.5, distilled=False).report


@cache
def compressed() -> Report:
    """All that a compress run can report beside what a merge does, by hand: charts with something in them."""
    widths = tuple(WidthPoint(n, 0.42 * n**-0.6, 0.46 * n**-0.55, 36_864.0 * n) for n in (4, 8, 16, 32, 64))
    students = (
        StudentFacts(("block4_project", "block4_expand"), "one hidden layer of 16", True, 4e5, 1.2e5, 0.083, 0.012, widths),
        StudentFacts(("block4_project", "block4_expand"), "one 5x5 convolution", False, 4e5, 3.1e5, 0.19, 0.051),
        StudentFacts(("block5_first", "block5_second"), "one 3x3 convolution", True, 5.2e5, 1.8e5, 0.11, 0.027, widths[1:]),
    )
    front = tuple(FrontPoint(1.5e6 / s, 0.004 * s**3, s == 1.5, f"speedup {s:g}") for s in (1.0, 1.2, 1.5, 2.0, 3.0))
    epochs = tuple(float(e) for e in range(31))
    training = (
        Curve("training", epochs, tuple(1.1 * 0.9**e + 0.5 for e in epochs), unit="distillation loss"),
        Curve("held out", epochs, tuple(1.2 * 0.91**e + 0.55 for e in epochs), unit="distillation loss"),
        Curve("held out", epochs, tuple(98.9 - 6 * 0.85**e for e in epochs), unit="accuracy, %"),
    )
    measures = (
        Measure("held out", "accuracy", "%", 98.9, 98.3, "higher", "1,000 samples"),
        Measure("held out", "agreement", "%", None, 99.1, "higher", "1,000 samples"),
        Measure("int8 on Cortex-M4", "latency", "ms", 12.5, 7.9, note="median of 50 runs"),
        Measure("int8 on Cortex-M4", "arena", "bytes", 56_528.0, 41_200.0),
    )
    row = CascadeFacts(
        ("block5_first", "block5_second"), "merged", "distilled", "one 3x3 convolution: 11 % of the variance unexplained", "",
        CostFacts(5.2e5, 1.8e5, "MACs", 3200, 1100),
    )
    base = merged()
    facts = CompressionFacts(students, front, training=training, samples=2048)
    return replace(base, action="compress", cascades=(*base.cascades, row), compression=facts, measures=measures)


def large(count: int) -> Report:
    """As many cascades of three layers with a skip around each, every one of them merged, with maps of errors."""
    base = merged()
    pattern = next(c for c in base.cascades if c.error is not None and c.error.map is not None)
    shape = ("N", 16, 32, 32)
    before = [NodeFacts("image", "input", (), (), shape, 0.0, 0)]
    after = list(before)
    rows = list[CascadeFacts]()
    for i in range(count):
        names = tuple(f"stage_{i // 100}/block_{i}/{part}" for part in ("expand", "conv", "project"))
        layers = (*names, f"stage_{i // 100}/block_{i}/add")
        for name in layers:
            start = len(before)
            reads = (start - 1, start - 4) if name.endswith("add") else (start - 1,)
            words = "sum" if name.endswith("add") else "3x3 convolution"
            before.append(NodeFacts(name, words, (name,), reads, shape, 2e5, 900, (i,)))
        relu = NodeFacts(f"block_{i}/relu", "relu", (f"block_{i}/relu",), (len(before) - 1,), shape, 0.0, 0)
        before.append(relu)
        after.append(NodeFacts(f"{names[-1]}_merged", "3x3 convolution", (), (len(after) - 1,), shape, 1e5, 400, (i,)))
        after.append(replace(relu, inputs=(len(after) - 1,), same=len(before) - 1))
        rows.append(replace(pattern, layers=layers, reason="4 layers -> one 3x3 convolution"))
    return replace(base, cascades=tuple(rows), graphs=GraphFacts(tuple(before), tuple(after)))


def check_against(kind: str, facts: object) -> None:
    """That facts, as JSON has them, fit the schema's definition of that kind."""
    jsonschema.validate(facts, {**SCHEMA["$defs"][kind], "$defs": SCHEMA["$defs"]}, cls=jsonschema.Draft202012Validator)
