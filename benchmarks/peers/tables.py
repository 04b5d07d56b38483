"""The rows as tables and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decascade.api.common import read_model
from decascade.checking.models import Subject
from peers.judge import latencies
from peers.picture import drawn
from peers.rows import ORDER, OURS
from support.results import write_results
from support.setup import RESULTS

WITHIN = 1.01
"""MACs above the budget by which a result still counts as within it."""
Row = dict[str, Any]
Group = tuple[str, float, float]
"""Model, how many times fewer MACs were asked for, minutes."""


def write(name: str, rows: Sequence[Row], models: Mapping[str, Path]) -> None:
    """Latencies measured, tables and picture written."""
    if not rows:
        print("no rows yet")
        return
    for model, path in models.items():
        own = [row for row in rows if row["model"] == model]
        if own:
            original = Subject(*read_model(path)).graph
            found = latencies({row["file"]: Path(row["file"]) for row in own}, original)
            for row in own:
                row["faster"] = found[row["file"]]
    kept = sorted(({k: v for k, v in row.items() if k != "file"} for row in rows), key=_order)
    groups: dict[Group, list[Row]] = {}
    for row in kept:
        groups.setdefault((row["model"], row["asked"], row["minutes"]), []).append(row)
    tables = [(f"{model} at {asked:g} times fewer MACs, {minutes:g} minutes each", HEADER, [_cells(row, own) for row in own])
              for (model, asked, minutes), own in groups.items()]
    picture = f"![Agreement with the original, by method]({name}.svg)"
    write_results(name, {"rows": kept}, tables, [picture, "", *_missing(groups), *_remarks(kept)])
    (RESULTS / f"{name}.svg").write_text(drawn(groups))


def _order(row: Row) -> tuple[Any, ...]:
    return row["model"], row["asked"], row["minutes"], row["method"] != OURS, -row["agreement"]


def _missing(groups: Mapping[Group, Sequence[Row]]) -> list[str]:
    """What has not been run, so that no table looks complete that is not."""
    found = list[str]()
    for (model, asked, _), rows in groups.items():
        absent = [method for method in ORDER if method not in {row["method"] for row in rows}]
        found += [f"Not run yet, {model} at {asked:g}: {', '.join(absent)}.", ""] if absent else []
    return found


HEADER = ("method", "times fewer MACs", "times faster, onnxruntime", "agreement, held-out", "divergence, nats",
          "accuracy, test", "changed, test", "epochs", "CPU, of it selection", "remark")


def _cells(row: Row, others: Sequence[Row]) -> list[str]:
    best = max((r["agreement"] for r in others if r["macs"] <= WITHIN * _budget(r)), default=0.0)
    within = row["macs"] <= WITHIN * _budget(row)
    told = f"{100 * row['agreement']:.2f} %"
    return [
        row["method"], f"{row['fewer_macs']:.2f}", f"{row['faster']:.2f}",
        f"**{told}**" if within and row["agreement"] == best else told, f"{row['divergence']:.4f}",
        f"{100 * row['original_accuracy']:.1f} → {100 * row['accuracy']:.1f} %",
        f"+{row['became_right']} −{row['became_wrong']}", f"{row['epochs']:.1f}",
        f"{row['cpu_seconds'] / 60:.1f} min, {row['selecting_seconds'] / 60:.1f}",
        ("" if within else "**not within the budget** ") + row["note"],
    ]


def _budget(row: Row) -> float:
    return row["macs"] * row["fewer_macs"] / row["asked"]


def _remarks(rows: Sequence[Row]) -> list[str]:
    images, test = rows[0]["held_out"], rows[0]["test_images"]
    error = 100 * (0.06 * 0.94 / images) ** 0.5
    first = 100 * (0.12 * 0.88 / test) ** 0.5
    busy = max(row["load"] for row in rows)
    return [
        "Every method had the same minutes of processor time on one thread, its selection included (the prices of steps are"
        " measured beside it, for all alike), and ends with the same distillation from the original on the same unlabelled"
        " training images; nothing uses labels. Steps are paid at the price of an undisturbed step: on this machine of 2 cores,"
        f" shared while this ran (load up to {busy:.0f}), they took more, as the column says.",
        "",
        f"Agreement is with the original, on {images:,} held-out training images by which nothing was chosen (one standard"
        f" error about {error:.1f} points; differences between two rows on the same images are surer); accuracy is on {test}"
        f" test images (one standard error {first:.1f} points, so rows that differ by less are not told apart by it). Bold: the"
        " highest agreement among the results within the budget. Times are processor times in onnxruntime, one image, one"
        " thread, all in turn.",
    ]
