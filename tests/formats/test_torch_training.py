"""Programs that were exported without .eval(): taken as in eval mode throughout, or refused with the way to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decascade as dc
from decascade.errors import FormatError
from decascade.formats.torch.format import FORMAT

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


class Always(nn.Module):
    """Dropout by the function, whose default is training mode."""

    def forward(self, x: Any) -> Any:
        return functional.dropout(x)


def norm(kind: Any, **more: Any) -> Callable[[], Any]:
    def make() -> Any:
        made = kind(32, **more)
        made.running_mean.uniform_(-1, 1)
        made.running_var.uniform_(0.5, 2)
        return made

    return make


LAYERS: dict[str, Callable[[], Any]] = {
    "Dropout": lambda: nn.Dropout(0.5),
    "Dropout in place": lambda: nn.Dropout(0.5, inplace=True),
    "Dropout2d": lambda: nn.Dropout2d(0.5),
    "Dropout2d in place": lambda: nn.Dropout2d(0.5, inplace=True),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.5),
    "F.dropout": Always,
    "BatchNorm2d": norm(nn.BatchNorm2d),
    "InstanceNorm2d": norm(nn.InstanceNorm2d, track_running_stats=True, affine=True),
}


def training(name: str) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 1), LAYERS[name](), nn.Conv2d(32, 4, 3)).train()


@pytest.fixture(params=LAYERS)
def net(request: pytest.FixtureRequest) -> Any:
    return training(request.param)


def test_merges_as_in_eval_mode(net: Any, tmp_path: Path) -> None:
    program = torch.export.export(net, (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    result = dc.merge(tmp_path / "net.pt2")
    assert [c.decision for c in result.report.cascades] == ["merged"]
    assert any("exported in training mode; it was read as in eval mode" in note for note in result.report.notes)
    assert dc.verify(tmp_path / "net.pt2", tmp_path / "net.pt2").same
    calm = nn.Sequential(*(nn.Identity() if isinstance(part, Always) else part for part in net)).eval()
    with torch.no_grad():
        want = calm(torch.tensor(X)).numpy()
    for native in (program, result.model):
        np.testing.assert_allclose(FORMAT.run(native, {"input": X})["output"], want, rtol=1e-4, atol=1e-4)


def test_running_changes_nothing_of_the_program() -> None:
    program = torch.export.export(training("BatchNorm2d"), (torch.zeros(2, 3, 8, 8),))
    before = {name: value.clone() for name, value in program.state_dict.items()}
    first, second = (FORMAT.run(program, {"input": X})["output"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict.items())


def test_open_sizes_are_exported_again_in_eval_mode(tmp_path: Path) -> None:
    free = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(training("BatchNorm2d"), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(free,))
    torch.export.save(program, tmp_path / "net.pt2")
    result = dc.merge(tmp_path / "net.pt2", input_shape=(2, 3, 8, 8))
    assert [c.decision for c in result.report.cascades] == ["merged"]


def test_statistics_of_the_batch_in_eval_mode_too_stay() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    program = torch.export.export(module.train(), (torch.zeros(2, 3, 8, 8),))
    assert not any("training mode" in note for note in FORMAT.read(program).notes)
    with torch.no_grad():
        want = module.eval()(torch.tensor(X)).numpy()
    np.testing.assert_allclose(FORMAT.run(program, {"input": X})["output"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["BatchNorm2d", "InstanceNorm2d", "Dropout2d", "AlphaDropout"])
def test_decomposed_in_training_mode(name: str, tmp_path: Path) -> None:
    program = torch.export.export(training(name), (torch.zeros(2, 3, 8, 8),)).run_decompositions()
    torch.export.save(program, tmp_path / "net.pt2")
    words = r"in training mode and decomposed \(aten\.\w+\.\w+\): call model\.eval\(\), then torch\.export\.export again"
    for call in (lambda: dc.merge(tmp_path / "net.pt2"), lambda: dc.verify(program, program), lambda: FORMAT.run(program, {})):
        with pytest.raises(FormatError, match=words):
            call()


def test_plain_dropout_can_be_taken_back_after_it_was_decomposed() -> None:
    program = torch.export.export(training("Dropout"), (torch.zeros(2, 3, 8, 8),)).run_decompositions()
    assert [c.decision for c in dc.merge(program).report.cascades] == ["merged"]
