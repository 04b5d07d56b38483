"""Distillation on small nets: it gets better, never worse, resumes exactly, keeps its time, says what it did."""

from __future__ import annotations

import io
import re
import signal
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.errors import UsageError
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.ir.ops import Foreign
from fit.distill_nets import cheaper, net, pictures, samples

torch = pytest.importorskip("torch")
module = import_module("decascade.compression.distill.train")
loop = import_module("decascade.compression.distill.loop")
state = import_module("decascade.compression.distill.state")
schedule = import_module("decascade.compression.distill.schedule")
Augment = import_module("decascade.compression.distill.augment").Augment
load_dataset = import_module("decascade.compression.data.batches").load_dataset
Options, distill = module.DistillOptions, module.distill

ORIGINAL = net()
STUDENT = cheaper(ORIGINAL)
QUICK = Options(epochs=8, batch=32, augment=None, precision="float32", rate=1e-2)


def distance(graph: Graph, data: Any) -> float:
    """KL at temperature 3 by the interpreter."""
    x = data.arrays(np.arange(data.count))["x"]
    z = [torch.tensor(run(g, {"x": x}, ("z",))["z"]) / 3 for g in (graph, ORIGINAL)]
    q, p = (torch.log_softmax(v, 1) for v in z)
    return float((p.exp() * (p - q)).sum(1).mean() * 9)


def weights(graph: Graph) -> list[np.ndarray]:
    found = []
    for node in graph.nodes:
        layer = getattr(node.op, "layer", node.op)
        found += [np.asarray(getattr(layer, f)) for f in ("weight", "bias") if getattr(layer, f, None) is not None]
    return found


def alike(a: Graph, b: Graph) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_a_student_gets_closer_to_the_original() -> None:
    data = samples(ORIGINAL)
    train, held = data.split(48, 0)
    found = distill(STUDENT, ORIGINAL, train, QUICK, held=held)
    assert found.start.held == pytest.approx(distance(STUDENT, held), rel=1e-4)
    assert found.best.held == pytest.approx(distance(found.graph, held), rel=1e-4)
    assert found.best.held < 0.2 * found.start.held
    assert found.best.agreement > found.start.agreement
    assert [n.name for n in found.graph.nodes] == [n.name for n in STUDENT.nodes]
    assert found.history[-1].share == 1
    assert found.history[-1].step == 8 * (144 // 32)
    assert not found.notes


def test_the_same_seed_gives_the_same_student() -> None:
    data, options = samples(ORIGINAL), replace(QUICK, augment=Augment(True, 0.25, 0.25, 0.5), epochs=3)
    one, again = (distill(STUDENT, ORIGINAL, data, options).graph for _ in range(2))
    assert alike(one, again)
    assert not alike(one, distill(STUDENT, ORIGINAL, data, replace(options, seed=1)).graph)


def test_raw_pixels_train_as_well() -> None:
    """The original takes 0–255: its first layer is scaled instead of the data."""
    stem = ORIGINAL.nodes[0]
    raw = replace(ORIGINAL, nodes=(replace(stem, op=replace(stem.op, weight=stem.op.weight / 255)), *ORIGINAL.nodes[1:]))
    ends = []
    for original, data in ((ORIGINAL, samples(ORIGINAL)), (raw, load_dataset(pictures(192), raw))):
        found = distill(cheaper(original), original, data, QUICK)
        ends.append(found.best.held / found.start.held)
    assert ends[1] == pytest.approx(ends[0], rel=0.05)


def test_it_never_ends_worse() -> None:
    """With a learning rate that ruins everything the student comes back as it was given."""
    data = samples(ORIGINAL)
    found = distill(ORIGINAL, ORIGINAL, data, replace(QUICK, rate=30.0, epochs=2))
    assert found.graph is ORIGINAL
    assert found.best.held == found.start.held
    assert max(p.held for p in found.history) > 0.1


def test_a_step_that_makes_it_worse_is_not_kept() -> None:
    data = samples(ORIGINAL)
    train, held = data.split(48, 0)
    found = distill(STUDENT, ORIGINAL, train, replace(QUICK, rate=0.5, epochs=6), held=held)
    assert distance(found.graph, held) == pytest.approx(min(p.held for p in found.history), rel=1e-4)
    assert distance(found.graph, held) <= found.start.held * (1 + 1e-4)


def poisoned(when: set[int]) -> Any:
    """A loss that is no number in some of its calls with a gradient."""
    calls = [0]

    def loss(student: Any, original: Any, labels: Any) -> Any:
        value = (student["z"] - original["z"]).square().mean()
        if torch.is_grad_enabled():
            calls[0] += 1
            if calls[0] in when or -1 in when:
                return value * float("nan")
        return value

    return loss


def test_a_loss_that_is_no_number_is_rolled_back() -> None:
    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, loss=poisoned({3, 58}), epochs=40))
    assert found.notes[0] == "the loss became nan at step 2: back to step 0 with half the learning rate"
    # the 58th call is step 54, as the first fall took three; looks are about five steps apart
    told = re.fullmatch(r"the loss became nan at step 54: back to step (\d+) with half the learning rate", found.notes[1])
    assert told is not None
    assert int(told[1]) == max(p.step for p in found.history if p.step <= 54)
    assert len(found.notes) == 2
    assert found.best.held < 0.5 * found.start.held
    assert all(np.isfinite(w).all() for w in weights(found.graph))
    assert found.history[-1].step == 40 * (173 // 32)


def test_a_gradient_that_is_no_number_is_rolled_back() -> None:
    """The loss is fine, the step ruins the weights and their average, and only the next loss shows it."""
    calls = [0]

    def loss(student: Any, original: Any, labels: Any) -> Any:
        if torch.is_grad_enabled():
            calls[0] += 1
            if calls[0] == 58:
                student["z"].register_hook(lambda gradient: gradient * float("nan"))
        return (student["z"] - original["z"]).square().mean()

    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, loss=loss, epochs=40))
    (note,) = found.notes
    assert note.startswith("the loss became nan at step 58: back to step 5")
    assert all(np.isfinite(p.held) for p in found.history)
    assert found.best.step > 58


def test_a_training_that_always_falls_is_given_up() -> None:
    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, loss=poisoned({-1})))
    assert found.graph is STUDENT
    assert len(found.notes) == 6
    assert found.notes[-1] == (
        "the loss became nan at step 0: back to step 0 with half the learning rate; "
        "this is the 6th time, so the training ends here"
    )


def test_it_stops_where_nothing_gets_better() -> None:
    """The first look is better than the start, and then the weights are ruined."""
    calls = [0]

    def loss(student: Any, original: Any, labels: Any) -> Any:
        calls[0] += torch.is_grad_enabled()
        away = (student["z"] - original["z"]).square().mean()
        return -away if torch.is_grad_enabled() and calls[0] > 12 else away

    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, loss=loss, epochs=40, patience=0.2))
    (note,) = found.notes
    assert note.startswith("stopped after ")
    assert "of the training: nothing was better since " in note
    assert found.history[-1].share < 0.5
    assert found.best.held < found.start.held


class Stop:
    """Ctrl-C in the middle of a step."""

    def __init__(self, at: int, times: int = 1) -> None:
        self.at, self.calls, self.times = at, 0, times

    def __call__(self, student: Any, original: Any, labels: Any) -> Any:
        self.calls += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self.calls == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return (student["z"] - original["z"]).square().mean()


@pytest.mark.parametrize("at", [1, 13, 30])
def test_ctrl_c_leaves_a_checkpoint_and_resume_goes_on_exactly(at: int, tmp_path: Path) -> None:
    data = samples(ORIGINAL)
    options = replace(QUICK, augment=Augment(True, 0.25, 0.25, 0.5))
    whole = distill(STUDENT, ORIGINAL, data, replace(options, loss=Stop(-1)))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        distill(STUDENT, ORIGINAL, data, replace(options, loss=Stop(at)), folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert [p.name for p in tmp_path.iterdir()] == ["distill.checkpoint"]
    rest = Stop(-1)
    found = distill(STUDENT, ORIGINAL, data, replace(options, loss=rest), folder=tmp_path, resume=True)
    assert rest.calls == 8 * (173 // 32) - at
    assert alike(found.graph, whole.graph)
    assert [(p.step, p.held, p.loss) for p in found.history] == [(p.step, p.held, p.loss) for p in whole.history]
    assert found.seconds > found.history[-1].seconds > 0
    # what has ended is not trained again
    again = Stop(-1)
    done = distill(STUDENT, ORIGINAL, data, replace(options, loss=again), folder=tmp_path, resume=True)
    assert alike(done.graph, whole.graph)
    assert again.calls == 0


def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, loss=Stop(5, times=2)), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_without_a_folder() -> None:
    with pytest.raises(KeyboardInterrupt):
        distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, loss=Stop(5)))


def test_checkpoints_of_other_trainings_are_refused(tmp_path: Path) -> None:
    data = samples(ORIGINAL)
    distill(STUDENT, ORIGINAL, data, replace(QUICK, epochs=1), folder=tmp_path)
    path = tmp_path / "distill.checkpoint"
    other = f"{path} belongs to a training of other models, data or options: resume with those, or delete it"
    cases = [
        (STUDENT, data, replace(QUICK, epochs=2)), (cheaper(ORIGINAL, 3), data, replace(QUICK, epochs=1)),
        (STUDENT, samples(ORIGINAL, 100), replace(QUICK, epochs=1)),
    ]
    for student, some, options in cases:
        with pytest.raises(UsageError) as error:
            distill(student, ORIGINAL, some, options, folder=tmp_path, resume=True)
        assert str(error.value) == other
    path.write_bytes(b"no checkpoint")
    with pytest.raises(UsageError) as error:
        distill(STUDENT, ORIGINAL, data, replace(QUICK, epochs=1), folder=tmp_path, resume=True)
    assert str(error.value).startswith(f"{path} is no checkpoint of a distillation (")
    assert str(error.value).endswith("): delete it to start anew")
    assert "\n" not in str(error.value)


def test_a_student_that_was_fitted_again_is_the_same_training() -> None:
    weights = {"w": torch.rand(4, 4)}
    again = {"w": weights["w"] * (1 + 1e-7)}
    mark = state.fingerprint(QUICK, student=weights)
    assert state.fingerprint(QUICK, student=again) == mark
    assert state.fingerprint(QUICK, student={"w": 1.1 * weights["w"]}) != mark
    assert state.fingerprint(QUICK, student={"v": weights["w"]}) != mark
    assert state.fingerprint(replace(QUICK, seed=1), student=weights) != mark


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    held = io.BytesIO()
    torch.save({"version": 2, "fingerprint": Evil()}, held)
    (tmp_path / "distill.checkpoint").write_bytes(sha256(held.getvalue()).digest() + held.getvalue())
    with pytest.raises(UsageError, match="is no checkpoint of a distillation"):
        state.load(tmp_path, "")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Whoever can write to the folder can also write a digest."""
    data = samples(ORIGINAL)
    distill(STUDENT, ORIGINAL, data, replace(QUICK, epochs=1), folder=tmp_path)
    path = tmp_path / "distill.checkpoint"
    good = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    edits: list[dict[str, Any]] = [{"weights": {}}, {"history": [{"x": 1}]}, {"optimizer": {}}, {"average": 3}, {"good": ()},
                                   {"elapsed": "soon"}, {"more": {}}, {"history": []}, {"step": "x"}, {"more": 5}]
    for edit in edits:
        held = io.BytesIO()
        torch.save({**good, **edit}, held)
        path.write_bytes(sha256(held.getvalue()).digest() + held.getvalue())
        with pytest.raises(UsageError, match="is no checkpoint of a distillation"):
            distill(STUDENT, ORIGINAL, data, replace(QUICK, epochs=1), folder=tmp_path, resume=True)


def test_a_checkpoint_that_cannot_be_written_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.State, "save", full)
    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, epochs=1), folder=tmp_path)
    assert found.history[-1].share == 1
    assert [n for n in found.notes if n.startswith("no checkpoint could be written to") and "No space left on device" in n]


def test_resume_without_a_checkpoint_begins(tmp_path: Path) -> None:
    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, epochs=1), folder=tmp_path, resume=True)
    assert found.history[-1].share == 1


class Clock:
    """Time that passes by a second with every look at it."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        self.time += 1
        return self.time


def test_a_time_limit_anneals_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own, slow or quick: the rate goes to zero within the limit, in as many steps as there is time for."""
    steps = {}
    for limit in (100.0, 300.0):
        clock, rates = Clock(), []
        monkeypatch.setattr(module, "Clock", lambda clock=clock: schedule.Clock(now=clock))

        class Watched(torch.optim.AdamW):
            def step(self, *args: Any, rates: list[float] = rates) -> Any:
                rates.append(self.param_groups[0]["lr"])
                return super().step(*args)

        options = replace(QUICK, epochs=None, optimizer=lambda p, kind=Watched: kind(p, 1e-2))
        found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), options, time_limit=limit)
        assert found.seconds <= limit
        assert found.history[-1].share == 1
        assert max(rates) > 0.9e-2
        assert rates[-1] < 0.02 * max(rates)
        assert found.best.held < found.start.held
        steps[limit] = len(rates)
    assert steps[300.0] > 2 * steps[100.0] > 20


def test_what_comes_first_ends_it() -> None:
    both = schedule.Schedule(100, 10.0)
    assert both.share(50, 2.0) == 0.5
    assert both.share(50, 8.0) == 0.8
    assert both.share(200, 0.0) == both.share(0, 99.0) == 1.0
    assert both.share(0, 4.0, reserve=2.0) == 0.5
    rates = [both.rate(share) for share in np.linspace(0, 1, 201)]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(1)
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) < 0)
    assert rates[-1] == 0
    with pytest.raises(UsageError, match=r"^a training of 0 steps and 1.0 seconds: give positive numbers$"):
        schedule.Schedule(0, 1.0)


def test_own_loss_optimiser_and_loop() -> None:
    data = samples(ORIGINAL)
    made = []

    def optimizer(parameters: list[Any]) -> Any:
        made.append(torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
        return made[-1]

    def loss(student: Any, original: Any, labels: Any) -> Any:
        assert labels is None
        return (student["y"] - original["y"]).abs().mean() + (student["z"] - original["z"]).abs().mean()

    found = distill(STUDENT, ORIGINAL, data, replace(QUICK, loss=loss, optimizer=optimizer))
    assert len(made) == 1
    assert found.best.held < found.start.held
    # the user's own loop goes on from there
    mine = torch.optim.AdamW(found.model.parameters(), 1e-3)
    batch = data.tensors(np.arange(64))
    values = []
    for _ in range(20):
        mine.zero_grad()
        one = found.loss(batch)
        one.backward()
        mine.step()
        values.append(float(one.detach()))
    assert values[-1] < values[0]
    assert torch.equal(found.loss(batch), found.loss(batch["x"]))
    x = batch["x"].numpy()
    np.testing.assert_allclose(found.model(batch["x"]).detach(), run(found.to_graph(), {"x": x})["y"], rtol=0, atol=1e-5)
    assert not alike(found.to_graph(), found.graph)


def test_labels_reach_the_users_loss() -> None:
    x = (pictures(96) / 255).astype(np.float32)
    labels = run(ORIGINAL, {"x": x})["y"].argmax(1)
    seen = []

    def loss(student: Any, original: Any, given: Any) -> Any:
        seen.append(len(given))
        return torch.nn.functional.cross_entropy(student["z"], torch.as_tensor(given))

    found = distill(STUDENT, ORIGINAL, load_dataset((x, labels), ORIGINAL), replace(QUICK, loss=loss, epochs=4))
    assert set(seen) == {32, 9}
    assert found.best.held < found.start.held


def test_regression() -> None:
    original = net(softmax=False)
    found = distill(cheaper(original), original, samples(original), QUICK)
    assert found.best.held < 0.2 * found.start.held
    assert found.start.agreement is None


def rounded() -> Foreign:
    return Foreign("Round", lambda arrays: [np.round(4 * arrays[0]) / 4])


def test_segments_before_and_behind_a_foreign_operation_are_trained() -> None:
    original = net(middle=rounded())
    student = cheaper(original)
    found = distill(student, original, samples(original), QUICK)
    assert found.notes == (
        "no gradient passes middle (Round): the layers before are trained segment by segment, on what goes in there",
    )
    assert found.best.held < 0.5 * found.start.held
    ops = {n.name: n.op for n in student.nodes}
    moved = {n.name for n in found.graph.nodes if n.op is not ops[n.name]}
    assert moved == {"stem", "one", "two", "head"}


def test_behind_an_operation_without_a_meaning_nothing_is_trained() -> None:
    original = net(middle=Foreign("Mystery"))
    student = cheaper(original)
    found = distill(student, original, samples(original), QUICK)
    assert found.notes[1] == "output y cannot be computed here: the layers that only it depends on stay as they were fitted"
    assert found.best.held < found.start.held
    ops = {n.name: n.op for n in student.nodes}
    assert {n.name for n in found.graph.nodes if n.op is not ops[n.name]} == {"stem", "one", "two"}


def test_nothing_that_can_be_trained() -> None:
    """Neither an output nor a tensor on the way is shared: the student comes back as it is, and that is said."""
    original = net(middle=Foreign("Mystery"))
    rename = {"g": "g9", "b": "b9"}

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(rename.get(n, n) for n in names)

    nodes = tuple(replace(n, inputs=renamed(n.inputs), outputs=renamed(n.outputs)) for n in original.nodes)
    tensors = {rename.get(n, n): replace(t, name=rename.get(n, n)) for n, t in original.tensors.items()}
    student = replace(original, nodes=nodes, tensors=tensors)
    found = distill(student, original, samples(original), QUICK)
    assert found.graph is student
    assert found.notes[-1] == "nothing that the student and the original have in common can be computed: nothing is trained"


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    real = torch.autocast

    def watched(kind: str, dtype: Any, enabled: bool = True) -> Any:
        seen.add(enabled)
        return real(kind, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", watched)
    data = samples(ORIGINAL)
    half = distill(STUDENT, ORIGINAL, data, replace(QUICK, precision="bfloat16"))
    assert seen == {True}
    assert half.best.held < 0.3 * half.start.held
    seen.clear()
    distill(STUDENT, ORIGINAL, data, replace(QUICK, epochs=1))
    assert not seen
    # both are tried, and the quicker one is taken
    for quick in (True, False):
        seen.clear()
        ticks = iter([0, 1, 1, 2, *([2, 12, 12, 13] if quick else [2, 3, 3, 13])])
        monkeypatch.setattr(module, "process_time", lambda ticks=ticks: next(ticks))
        steps: list[bool] = []

        def counted(*args: Any, enabled: bool = True, steps: list[bool] = steps) -> Any:
            steps.append(enabled)
            return real(*args, enabled=enabled)

        monkeypatch.setattr(torch, "autocast", counted)
        distill(STUDENT, ORIGINAL, data, replace(QUICK, epochs=1, precision="auto"))
        assert steps[:4] == [False, True, False, True]
        assert steps[4:] == [True] * 5 * quick
    # what is to be met as a number is left in float32
    steps.clear()
    flat = net(softmax=False)
    distill(cheaper(flat), flat, data, replace(QUICK, epochs=1, precision="auto"))
    assert not steps


def test_augmentation_is_chosen_for_pictures_of_classes() -> None:
    seen = []

    class Job(module._Job):
        def _augment(self, original: Any) -> Any:
            seen.append(super()._augment(original))
            return seen[-1]

    def chosen(original: Graph, augment: Any) -> Any:
        data = samples(original)
        train, held = data.split(20, 0)
        options = replace(QUICK, epochs=1, augment=augment)
        outputs = module.outputs_of(original)
        Job(cheaper(original), original, train, held, options, outputs, None, module._silent).run(schedule.Clock(), None, False)
        return seen[-1]

    assert chosen(ORIGINAL, None) == module.NOTHING
    assert chosen(ORIGINAL, Augment(mixup=0.5)) == Augment(mixup=0.5)
    assert chosen(net(softmax=False), "auto") == module.NOTHING
    assert chosen(ORIGINAL, "auto") in (module.AUTO, replace(module.AUTO, flip=False))


def test_little_room_makes_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM", 2**17)
    found = distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, epochs=1))
    width = 4 * sum(int(np.prod(STUDENT.shape(n.output)[1:])) for n in STUDENT.nodes)
    assert found.history[-1].step == 173 // (2**17 // width)


def test_progress_reaches_its_end() -> None:
    seen: list[tuple[str, float]] = []
    distill(STUDENT, ORIGINAL, samples(ORIGINAL), replace(QUICK, epochs=1), progress=lambda *one: seen.append(one))
    shares = [share for _, share in seen]
    assert {stage for stage, _ in seen} == {"distilling"}
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch = 0: give a number from 1 on"),
        ({"weight_decay": -1}, "weight_decay = -1: give a number from 0 on"),
        ({"features": float("nan")}, "features = nan: give a number from 0 on"),
        ({"seed": -1}, "seed = -1: give a number from 0 on"),
        ({"rate": 0}, "rate = 0: give a number above 0"),
        ({"temperature": -2}, "temperature = -2: give a number above 0"),
        ({"patience": 0}, "patience = 0: give a number above 0"),
        ({"epochs": 0}, "epochs = 0: give a number above 0"),
        ({"warm": 1}, "warm = 1: give a share of the training below 1"),
        ({"precision": "half"}, "precision = 'half': give one of auto, float32, bfloat16"),
    ],
)
def test_options_out_of_their_domain(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        Options(**options)
    assert str(error.value) == words


def test_bad_use() -> None:
    data = samples(ORIGINAL, 12)
    with pytest.raises(UsageError, match=r"^12 samples are too few to train on: give at least 16$"):
        distill(STUDENT, ORIGINAL, data)
    with pytest.raises(UsageError, match=r"^time limit of 0 seconds: give a time above 0$"):
        distill(STUDENT, ORIGINAL, samples(ORIGINAL), time_limit=0)
    with pytest.raises(UsageError, match=r"^the student has other inputs or outputs than the original: they must be the same$"):
        distill(net(softmax=False), ORIGINAL, samples(ORIGINAL))


def test_a_student_that_starts_close_is_trained_at_a_lower_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate at which the loss first rises is passed over; what was tried leaves no trace."""
    rates = import_module("decascade.compression.distill.rate")
    used = list[float]()
    make = torch.optim.AdamW

    def told(parameters: Any, rate: float, **more: Any) -> Any:
        used.append(rate)
        return make(parameters, rate, **more)

    monkeypatch.setattr(torch.optim, "AdamW", told)
    options = replace(QUICK, rate=None, epochs=2)
    data = samples(ORIGINAL)
    far = distill(STUDENT, ORIGINAL, data, options)
    assert used[-1] == rates.RATES[0]
    assert far.history[-1].step == 2 * (173 // 32)
    stem = ORIGINAL.nodes[0]
    near = replace(ORIGINAL, nodes=(replace(stem, op=replace(stem.op, weight=stem.op.weight * 1.0001)), *ORIGINAL.nodes[1:]))
    used.clear()
    found = distill(near, ORIGINAL, data, options)
    assert used == [rates.RATES[0], *rates.RATES[:-1], rates.RATES[-1]]
    assert found.start.held == pytest.approx(distill(near, ORIGINAL, data, replace(options, rate=1e-6)).start.held, rel=1e-6)
    monkeypatch.setattr(rates, "SHARE", 0.0)
    used.clear()
    distill(near, ORIGINAL, data, options, time_limit=60.0)
    assert used == [rates.RATES[0], rates.RATES[0], rates.RATES[-1]]
