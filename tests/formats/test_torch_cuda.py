"""Merged modules on a GPU: moved, in half precision, compiled, trained.  Skipped where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import decascade as dc

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
SHAPE = (2, 8, 20, 20)


def cascades() -> Any:
    """A free border, a bias-only one and a ring, with activations between."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(8, 64, 3, padding=1), nn.Conv2d(64, 8, 1), nn.ReLU(),
        nn.Conv2d(8, 48, 1), nn.Conv2d(48, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Conv2d(64, 8, 3, padding=1),
    ).eval()


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    module = cascades()
    return module, dc.merge(module, input_shape=SHAPE).model


@pytest.mark.parametrize("compiled", [False, True])
def test_same_on_the_device(pair: tuple[Any, Any], compiled: bool) -> None:
    torch.backends.cudnn.allow_tf32 = False
    original, merged = (copy.deepcopy(m).to("cuda") for m in pair)
    assert sum(isinstance(m, nn.Conv2d) for m in pair[0].modules()) == 6
    if compiled:
        merged = torch.compile(merged)
    x = torch.randn(SHAPE, device="cuda")
    with torch.no_grad():
        exact = copy.deepcopy(original).double()(x.double())
        error = (merged(x) - exact).abs().max() / exact.abs().max()
    assert float(error) < 600 * 2.0**-23  # the longest sum has 577 terms


@pytest.mark.parametrize(("kind", "unit"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_is_as_good_as_the_originals(pair: tuple[Any, Any], kind: str, unit: float) -> None:
    dtype = getattr(torch, kind)
    original, merged = (copy.deepcopy(m).to("cuda", dtype) for m in pair)
    x = torch.randn(SHAPE, device="cuda", dtype=dtype)
    with torch.no_grad():
        exact = copy.deepcopy(pair[0]).to("cuda").double()(x.double())
        theirs, ours = ((m(x).double() - exact).abs().max() / exact.abs().max() for m in (original, merged))
    assert float(ours) < max(2 * float(theirs), 8 * unit)


def test_it_trains_on_the_device(pair: tuple[Any, Any]) -> None:
    model = copy.deepcopy(pair[1]).to("cuda").train()
    x, target = torch.randn(SHAPE, device="cuda"), torch.randn(2, 8, 20, 20, device="cuda")
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = list[float]()
    for _ in range(20):
        optimiser.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
