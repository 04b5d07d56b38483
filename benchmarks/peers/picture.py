"""Agreement by method: a panel per network and budget with a bar per method, and one over measured latency per network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor
from typing import Any

from peers.rows import LATENCY, OURS

INK, SOFT, LINE, BLUE, GREY = "#333", "#777", "#ddd", "#1d4ed8", "#94a3b8"
LEFT, WIDTH, RIGHT, BAR, GAP = 300, 420, 270, 16, 8
HEAD, FOOT, TOP = 44, 30, 12

Row = Mapping[str, Any]
Groups = Mapping[tuple[str, float, float], Sequence[Row]]
HIGH = 260


def drawn(groups: Groups) -> str:
    """An SVG."""
    parts, y = list[str](), TOP
    least = floor(20 * min(row["agreement"] for rows in groups.values() for row in rows)) / 20
    numbered: dict[str, list[tuple[int, Row]]] = {}
    for (model, asked, minutes), rows in groups.items():
        own = numbered.setdefault(model, [])
        ranked = list(enumerate(sorted(rows, key=lambda row: -row["agreement"]), start=len(own) + 1))
        own += ranked
        parts += _panel(f"{model}, {asked:g} times fewer MACs asked, {minutes:g} minutes each", ranked, y, least)
        y += HEAD + len(rows) * (BAR + GAP) + FOOT
    for model, own in numbered.items():
        parts += _latency(f"{model}, agreement over latency measured in onnxruntime (times faster)", own, y, least)
        y += HEAD + HIGH + FOOT
    box = f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {y}"'
    paper = f'<rect width="{LEFT + WIDTH + RIGHT}" height="{y}" rx="8" fill="#fff"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="system-ui, sans-serif" font-size="13">'
    return "\n".join([head, paper, *parts, "</svg>", ""])


def _panel(title: str, rows: Sequence[tuple[int, Row]], top: int, least: float) -> list[str]:
    bottom = top + HEAD + len(rows) * (BAR + GAP)

    def x(agreement: float) -> float:
        return LEFT + WIDTH * (agreement - least) / (1 - least)

    parts = [_text(16, top + 18, title, more=' font-weight="600"')]
    for i in range(5):
        share = least + (1 - least) * i / 4
        parts.append(f'<path d="M{x(share):g} {top + HEAD - 8}V{bottom}" stroke="{LINE}"/>')
        parts.append(_text(x(share), bottom + 16, f"{100 * share:.4g} %", SOFT, "middle"))
    for i, (number, row) in enumerate(rows):
        y, bold = top + HEAD + i * (BAR + GAP), ' font-weight="600"' if _colour(row) == BLUE else ""
        end = x(row["agreement"])
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:g}" height="{BAR}" fill="{_colour(row)}"/>')
        parts.append(_text(LEFT - 8, y + 13, f"{row['method']} · {number}", INK, "end", bold))
        told = f"{100 * row['agreement']:.1f} %, {row['fewer_macs']:.2f} × fewer MACs, {row['faster']:.2f} × faster"
        parts.append(_text(end + 6, y + 13, told, SOFT))
    return parts


def _latency(title: str, rows: Sequence[tuple[int, Row]], top: int, least: float) -> list[str]:
    """One point per result, by its number: to the right is faster, above is closer to the original."""
    times = [10 * row["faster"] for _, row in rows]
    slow, fast = floor(min(times)) / 10, ceil(max(times)) / 10
    bottom = top + HEAD + HIGH

    def x(faster: float) -> float:
        return 60 + (LEFT + WIDTH - 60) * (faster - slow) / (fast - slow)

    def y(agreement: float) -> float:
        return bottom - HIGH * (agreement - least) / (1 - least)

    parts = [_text(16, top + 18, title, more=' font-weight="600"')]
    for i in range(5):
        share, ratio = least + (1 - least) * i / 4, slow + (fast - slow) * i / 4
        parts.append(f'<path d="M60 {y(share):g}H{LEFT + WIDTH}" stroke="{LINE}"/>')
        parts.append(_text(54, y(share) + 4, f"{100 * share:.4g} %", SOFT, "end"))
        parts.append(_text(x(ratio), bottom + 18, f"{ratio:.2f} ×", SOFT, "middle"))
    for number, row in reversed(rows):  # the best on top
        at = x(row["faster"]), y(row["agreement"])
        parts.append(f'<circle cx="{at[0]:g}" cy="{at[1]:g}" r="9" fill="{_colour(row)}" stroke="#fff"/>')
        parts.append(_text(at[0], at[1] + 4, str(number), "#fff", "middle", ' font-size="11" font-weight="600"'))
    return parts


def _colour(row: Row) -> str:
    return BLUE if row["method"] in (OURS, LATENCY) else GREY


def _text(x: float, y: float, words: str, colour: str = INK, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
