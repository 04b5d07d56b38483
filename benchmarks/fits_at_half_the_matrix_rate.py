"""The moments of a fit cost little more than their arithmetic: at least half of the machine's own matrix-multiply rate.

For layers as networks have them: patches of random activations, all positions, one target, summed up by `collect` in float32
with float64 totals; beside it what one writes first (torch's unfold, a matrix times its transpose, the product with the
targets), and the rate of a plain float32 matrix product in the same run, by numpy and by torch, whichever is faster.  Only
the arithmetic that is needed counts: n·K·(K + 1) operations for the symmetric product of n patches of K numbers, 2·n·K·O for
the targets.  Then all requests of the published ResNet-8, the model's own run included, and what solving them takes.
Processor time on one thread, the best of several turns.

    python benchmarks/fits_at_half_the_matrix_rate.py [--quick]
"""

from __future__ import annotations

import support.setup  # noqa: F401  threads and paths, before all else

# isort: split
import argparse
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
import torch

from decascade.compression.plan.assemble import runner
from decascade.compression.plan.candidates import candidates, fit_all, passes, sizes_of, supported
from decascade.compression.students.moments import collect
from decascade.compression.students.moments import groups as grouped
from decascade.compression.students.windows import Request, Window
from decascade.compression.torch_graph.graph import Lowered
from decascade.cost import target_named
from decascade.formats.registry import format_of
from decascade.regions.merge import Options, merge_graph
from support.results import write_results
from support.setup import DATA, MODELS

NAME = "fits_at_half_the_matrix_rate"
BATCH = 64


@dataclass(frozen=True)
class Layer:
    channels: int
    kernel: int
    size: int
    out: int

    @property
    def unknowns(self) -> int:
        return self.channels * self.kernel**2

    def operations(self, samples: int) -> float:
        return samples * self.size**2 * self.unknowns * (self.unknowns + 1 + 2 * self.out)


LAYERS = (Layer(16, 3, 32, 16), Layer(16, 5, 32, 16), Layer(16, 7, 32, 16), Layer(32, 3, 16, 32), Layer(32, 5, 16, 32),
          Layer(64, 3, 8, 64), Layer(64, 5, 8, 64), Layer(128, 3, 8, 128), Layer(256, 1, 8, 512), Layer(512, 1, 4, 512))


def best(work: Callable[[], Any], turns: int) -> float:
    """Processor seconds of the fastest turn."""
    times = list[float]()
    for _ in range(turns):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


def matrix_rate(turns: int) -> float:
    """Operations per second of a float32 matrix product."""
    a, b = (np.random.default_rng(i).standard_normal((1536, 1536)).astype(np.float32) for i in range(2))
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    return 2 * 1536**3 / min(best(lambda: a @ b, turns), best(lambda: x @ y, turns))


def one_layer(layer: Layer, turns: int, work: float) -> dict[str, float]:
    """Rates on one layer; as many samples as make `work` operations."""
    samples = max(BATCH, round(work / layer.operations(1) / BATCH) * BATCH)
    shapes = {"x": (layer.channels, *(layer.size,) * 2), "y": (layer.out, *(layer.size,) * 2)}
    data = {name: torch.randn(samples, *shape) for name, shape in shapes.items()}
    first = -(layer.kernel // 2)
    request = Request("x", Window((layer.kernel,) * 2, (1, 1), (first, first)), "y")
    batches = [{n: t[i : i + BATCH] for n, t in data.items()} for i in range(0, samples, BATCH)]

    def ours() -> None:
        collect(lambda batch, _: batch, batches, [request], shapes, samples, 0, rows=float("inf"))

    def plain() -> None:
        gram, cross = np.zeros((layer.unknowns,) * 2), np.zeros((layer.unknowns, layer.out))
        for batch in batches:
            columns = torch.nn.functional.unfold(batch["x"], layer.kernel, padding=-first)
            patches = columns.movedim(1, 2).reshape(-1, layer.unknowns)
            target = batch["y"].movedim(1, -1).reshape(-1, layer.out)
            gram += (patches.T @ patches).double().numpy()
            cross += (patches.T @ target).double().numpy()

    count = layer.operations(samples)
    rates = {"ours": count / best(ours, turns), "plain": count / best(plain, turns)}
    return {"unknowns": layer.unknowns, "samples": samples, **rates}


def whole_model() -> dict[str, float]:
    """All fits of ResNet-8 on 1,024 images."""
    path = MODELS / "mlperf_tiny_resnet8_cifar10.h5"
    target = target_named("macs")
    graph, _ = merge_graph(format_of(path).read(path).graph, Options(target))
    with np.load(DATA / "cifar10_train_part0.npz") as part:
        x = part["x"][:1024].astype(np.float32).transpose(0, 3, 1, 2)
    batches = [{graph.inputs[0]: torch.from_numpy(x[i : i + BATCH])} for i in range(0, len(x), BATCH)]
    found, shapes, run = supported(candidates(graph, target, 6), len(x)), sizes_of(graph), runner(Lowered(graph))
    totals = {"students": float(len(found)), "collect": 0.0, "fit": 0.0, "operations": 0.0}
    for some in passes(found):
        requests = [request for candidate in some for request in candidate.student.requests()]
        start = process_time()
        moments = collect(run, batches, requests, shapes, len(x), 0)
        middle = process_time()
        fitted = sum(1 for _ in fit_all(some, moments))
        assert fitted == len(some)
        totals["collect"] += middle - start
        totals["fit"] += process_time() - middle
        # one request tells how many rows all on its group have
        for group, request in {group: request for request, group in grouped(requests, shapes).items()}.items():
            patches = moments.regression(request).patches
            rows = patches.fitted.count + patches.held.count
            totals["operations"] += rows * group.unknowns * (group.unknowns + 1 + 2 * group.width)
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns on less data")
    quick = parser.parse_args().quick
    turns, work = (2, 4e9) if quick else (5, 2e10)
    rates, layers = list[float](), list[dict[str, float]]()
    for layer in LAYERS:  # the machine's own rate in between: it is not the same all the time
        rates.append(matrix_rate(turns))
        layers.append(one_layer(layer, turns, work))
    rate = max(rates)
    model = whole_model() if (MODELS.exists() and DATA.exists()) else {}
    rows = [[f"{layer.kernel}x{layer.kernel}, {layer.channels} to {layer.out}, {layer.size}x{layer.size}",
             f"{found['unknowns']}", f"{found['plain'] / 1e9:.1f}", f"{found['ours'] / 1e9:.1f}",
             f"**{found['ours'] / rate:.0%}**"]
            for layer, found in zip(LAYERS, layers, strict=True)]
    header = ("layer", "unknowns", "plain, 1e9/s", "decascade, 1e9/s", "of the matrix rate")
    tables = [(f"One layer; a float32 matrix product runs at {rate / 1e9:.1f}e9 operations per second", header, rows)]
    if model:
        whole = [f"{model['students']:.0f}", f"{model['operations']:.3g}", f"{model['collect']:.1f}",
                 f"**{model['operations'] / model['collect'] / rate:.0%}**", f"{model['fit']:.1f}"]
        header = ("students", "operations", "collecting, s", "of the matrix rate", "solving, s")
        tables.append(("All students of ResNet-8 on 1,024 images", header, [whole]))
    write_results(NAME, {"matrix_rate": rate, "matrix_rates": rates, "layers": layers, "model": model}, tables)


if __name__ == "__main__":
    main()
