"""The pictures of the documentation, drawn from what the project itself computes.

    python docs/pictures.py              writes docs/pictures/*.svg (stable_relus takes minutes)
    python docs/pictures.py border_error writes one

Everything is computed here: kernels are composed, borders found, proofs made; nothing is sketched by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import decascade as dc

HERE = Path(__file__).resolve().parent
OUT = HERE / "pictures"
DIGITS = HERE.parent / "examples" / "digits.onnx"
INK, SOFT, LINE, BLUE, ORANGE, TEAL = "#333", "#777", "#bbb", "#1d4ed8", "#c2410c", "#0b7285"
CLASSES = ("#0b7285", "#5bb5c5", "#a5d8e0", "#c2410c", "#f0a070", "#7c3aed", "#c4a7f2", "#a16207", "#e0c068")
INTERIOR = "#eceff1"
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="system-ui, sans-serif" font-size="13">'
    paper = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    return "\n".join([head, paper, *parts, "</svg>", ""])


def text(x: float, y: float, words: str, colour: str = INK, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}"{more}>{words}</text>'


def cells(values: NDArray[np.float64], x: float, y: float, size: float, colour: Callable[[float], str]) -> list[str]:
    """A picture of numbers, a square each; runs of one colour are one rectangle."""
    parts = list[str]()
    for i, row in enumerate(values):
        colours = [colour(float(v)) for v in row]
        start = 0
        for j in range(1, len(row) + 1):
            if j == len(row) or colours[j] != colours[start]:
                place = f'x="{x + start * size:g}" y="{y + i * size:g}" width="{(j - start) * size:g}" height="{size:g}"'
                parts.append(f'<rect {place} fill="{colours[start]}" shape-rendering="crispEdges"/>')
                start = j
    return parts


def warm(share: float) -> str:
    """Dark to light in sixteen steps."""
    at = round(min(max(share, 0.0), 1.0) * 15) / 15 * (len(VIRIDIS) - 1)
    i = min(int(at), len(VIRIDIS) - 2)
    return "#" + "".join(f"{round(a + (b - a) * (at - i)):02x}" for a, b in zip(VIRIDIS[i], VIRIDIS[i + 1], strict=True))


def signed(value: float) -> str:
    """Blue below zero, orange above, white at zero; sixteen steps."""
    share = round(min(abs(value), 1.0) * 15) / 15
    end = (194, 65, 12) if value > 0 else (29, 78, 216)
    return "#" + "".join(f"{round(255 + (e - 255) * share):02x}" for e in end)


def pair(seed: int = 3) -> tuple[dc.Conv, dc.Conv]:
    """Two 3×3 layers as networks have them: zero padding, biases, more channels in the middle."""
    rng = np.random.default_rng(seed)
    first = dc.Conv(rng.normal(size=(8, 3, 3, 3)) / 5, rng.normal(size=8) / 5, padding=1)
    return first, dc.Conv(rng.normal(size=(4, 8, 3, 3)) / 8, rng.normal(size=4) / 8, padding=1)


def off(size: int) -> list[NDArray[np.float64]]:
    """Error at every position, of the largest value: of a naive merge, and of decascade's."""
    first, second = pair()
    x = np.random.default_rng(1).normal(size=(1, 3, size, size))
    right = second(first(x))
    inner = dc.compose(dc.Conv(second.weight, second.bias, padding=0), dc.Conv(first.weight, first.bias, padding=0))
    naive = dc.Conv(inner.weight, inner.bias, padding=2)(x)
    return [np.abs(y - right)[0].max(axis=0) / np.abs(right).max() for y in (naive, by_classes(first, second, x))]


def by_classes(first: dc.Conv, second: dc.Conv, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every output position by the layer of its border class."""
    size = x.shape[2:]
    border = dc.find_border(dc.chain([first, second], size=size))
    out = np.zeros((1, second.out_channels, *size))
    for index in border.indices:
        layer = border.kernel(index)
        rows, columns = ranges(border, index)
        out[:, :, rows, columns] = layer(x)[:, :, rows, columns]
    return out


def ranges(border: Any, index: tuple[int, ...]) -> tuple[slice, ...]:
    """The positions of a border class."""
    return tuple(slice(axis[i].start, axis[i].stop) for axis, i in zip(border.axes, index, strict=True))


def merged_kernel() -> str:
    """Two 3×3 kernels and the 5×5 one that does the job of both."""
    first = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]) / 16
    second = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]) / 8
    both = dc.compose(dc.Conv(second[None, None]), dc.Conv(first[None, None])).weight[0, 0]
    parts, x = list[str](), 30.0
    shown = (("first layer, 3×3", first, "then"), ("second layer, 3×3", second, "="), ("one layer, 5×5", both, ""))
    for name, kernel, sign in shown:
        side = len(kernel) * 26
        top = 110 - side / 2
        parts += cells(kernel / np.abs(kernel).max(), x, top, 26, signed)
        parts.append(f'<rect x="{x:g}" y="{top:g}" width="{side}" height="{side}" fill="none" stroke="{LINE}"/>')
        parts.append(text(x + side / 2, 198, name, SOFT, "middle"))
        x += side + 60
        parts.append(text(x - 30, 115, sign, INK, "middle"))
    return svg(round(x) - 20, 215, parts)


def border_error() -> str:
    """Where a naive merge is wrong, and by how much; the same for what decascade writes."""
    parts = list[str]()
    for i, size in enumerate((32, 8)):
        names = ("one 5×5 kernel, zero padding", "a kernel per border class")
        for j, (name, error) in enumerate(zip(names, off(size), strict=True)):
            x = 30 + 270 * j + 540 * i
            parts += cells(np.log10(np.maximum(error, 1e-16)) / 16 + 1, x, 46, 224 / size, warm)
            wrong = float((error > 1e-12).mean())
            told = f"{size}×{size}: {wrong:.0%} of the pixels wrong" if wrong else f"{size}×{size}: none wrong"
            parts += [text(x, 30, name), text(x, 290, told, SOFT)]
            parts.append(text(x, 308, f"largest error {error.max():.1g} of the largest value", SOFT))
    parts += [text(30, 340, "1e-16", SOFT), text(330, 340, "1 (of the largest value)", SOFT)]
    parts += cells(np.linspace(0, 1, 32)[None], 80, 328, 7.5, warm)
    return svg(1100, 356, parts)


def border_classes() -> str:
    """The positions of a 12×12 picture by the taps that they see: two layers, three, and one with a stride."""
    first, second = pair()
    strided = dc.Conv(second.weight, second.bias, stride=2, padding=1)
    deep = dc.Conv(np.random.default_rng(5).normal(size=(4, 4, 3, 3)), padding=1)
    cascades = {
        "3×3 then 3×3": [first, second], "three 3×3 layers": [first, second, deep],
        "3×3, then 3×3 with stride 2": [first, strided],
    }
    parts = list[str]()
    for i, (name, layers) in enumerate(cascades.items()):
        border = dc.find_border(dc.chain(layers, size=(12, 12)))
        shape = tuple(axis[-1].stop for axis in border.axes if axis is not None)
        place = np.zeros(shape)
        for n, index in enumerate(border.indices):
            place[ranges(border, index)] = -1 if index == border.interior else n
        x, cell = 30 + 260 * i, 216 / shape[0]
        parts += cells(place, x, 40, cell, lambda n: CLASSES[int(n) % len(CLASSES)] if n >= 0 else INTERIOR)
        lines = "".join(f"M{x:g} {40 + k * cell:g}h216M{x + k * cell:g} 40v216" for k in range(1, shape[0]))
        parts.append(f'<path d="{lines}" stroke="#fff" stroke-width="1.5"/>')
        parts += [text(x, 28, name), text(x, 276, f"{len(border.indices)} classes, each with its own kernel", SOFT)]
    return svg(810, 292, parts)


def when_it_pays() -> str:
    """Multiply-accumulates of the merged layer over those of the cascade, against the width of the middle."""
    outer, widths = 32, [8 * 2 ** (k / 4) for k in range(21)]
    cases = (("3×3 then 3×3", 3, 3, BLUE), ("1×1 then 3×3", 1, 3, ORANGE), ("1×1, 3×3, 1×1 (expansion)", 0, 0, TEAL))
    left, bottom, wide, tall = 82, 300, 520, 250

    def x(width: float) -> float:
        return left + wide * np.log2(width / 8) / 5

    def y(share: float) -> float:
        return bottom - tall * (np.log2(share) + 4) / 7

    parts = list[str]()
    for e in range(-4, 4):
        style = f'stroke="{SOFT}" stroke-width="1.4"' if e == 0 else f'stroke="{LINE}" stroke-width="0.7"'
        parts.append(f'<path d="M{left} {y(2.0**e):g}h{wide}" {style}/>')
        parts.append(text(left - 8, y(2.0**e) + 4, f"{2.0**e:g} ×", SOFT, "end"))
    parts += [text(x(8 * 2**k), bottom + 20, f"{8 * 2**k}", SOFT, "middle") for k in range(6)]
    parts.append(text(left + wide / 2, bottom + 42, f"channels in the middle, {outer} at both ends", SOFT, "middle"))
    parts.append(text(left, 26, "cost of the merged layer against the cascade's"))
    parts.append(text(left + wide + 16, y(1.0) + 4, "below this line merging pays", SOFT))
    for i, (name, first, second, colour) in enumerate(cases):
        shares = [(w, ratio(outer, w, first, second)) for w in widths]
        points = " ".join(f"{x(w):.1f},{y(share):.1f}" for w, share in shares if 1 / 16 <= share <= 8)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        parts.append(f'<rect x="{left + wide + 16}" y="{66 + 26 * i}" width="16" height="4" fill="{colour}"/>')
        parts.append(text(left + wide + 38, 73 + 26 * i, name))
    return svg(850, 356, parts)


def ratio(outer: int, middle: float, first: int, second: int) -> float:
    """Cost of the one layer over that of the cascade, per position; kernels by composition."""
    if not first:
        return 9 * outer * outer / (2 * outer * middle + 9 * middle * middle)
    one, two = np.zeros((1, 1, first, first)), np.zeros((1, 1, second, second))
    kernel = dc.compose(dc.Conv(two), dc.Conv(one)).weight[0, 0].size
    return kernel * outer * outer / ((first * first + second * second) * outer * middle)


def stable_relus() -> str:
    """What is proved of the digits network's ReLU channels, against how wide the range of inputs is."""
    radii = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5]
    linear, settled = list[float](), list[float]()
    for radius in radii:
        found = dc.inspect(DIGITS, input_range=(0.5 - radius, 0.5 + radius), prove_seconds=15)
        counts = found.certificates[0]["channels"]
        total = max(sum(counts.values()), 1)
        linear.append(counts.get("proven", 0) / total)
        settled.append((counts.get("proven", 0) + counts.get("mixed", 0)) / total)
    left, bottom, wide, tall = 66, 260, 520, 210

    def x(radius: float) -> float:
        return left + wide * np.log10(radius / 0.001) / np.log10(500)

    grid = (0, 0.25, 0.5, 0.75, 1)
    parts = [f'<path d="M{left} {bottom - tall * s:g}h{wide}" stroke="{LINE}" stroke-width=".7"/>' for s in grid]
    parts += [text(left - 8, bottom - tall * s + 4, f"{s:.0%}", SOFT, "end") for s in grid]
    parts += [text(x(r), bottom + 20, f"±{r:g}", SOFT, "middle") for r in radii]
    for shares, colour, down, name, line in (
        (settled, ORANGE, -10, "linear at every position", 60),
        (linear, TEAL, 18, "and alike at all of them: can be merged", 84),
    ):
        points = [(x(r), bottom - tall * s) for r, s in zip(radii, shares, strict=True)]
        told = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{told}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>' for a, b in points]
        told = [(a, b + down, f"{s:.0%}") for (a, b), s in zip(points, shares, strict=True) if s > 0.02]
        parts += [text(a, b, share, colour, "middle") for a, b, share in told]
        parts += [f'<rect x="300" y="{line - 7}" width="16" height="4" fill="{colour}"/>', text(322, line, name)]
    parts.append(text(left, 26, "ReLU channels of which that is proved"))
    below = "width of the input range around mid-grey (the whole box is ±0.5)"
    parts.append(text(left + wide / 2, bottom + 42, below, SOFT, "middle"))
    return svg(640, 316, parts)


PICTURES = {f.__name__: f for f in (merged_kernel, border_error, border_classes, when_it_pays, stable_relus)}


def main(names: Sequence[str]) -> None:
    OUT.mkdir(exist_ok=True)
    for name in names or PICTURES:
        (OUT / f"{name}.svg").write_text(PICTURES[name](), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
