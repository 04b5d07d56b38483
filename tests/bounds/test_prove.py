"""Verdicts on small networks against brute force; witnesses are run again; the certificate's numbers add up."""

from __future__ import annotations

import json
from itertools import product
from time import process_time

import numpy as np
import pytest

from bounds.nets import chain, conv, random_net
from decascade.algebra.conv import Conv
from decascade.bounds import Box, Status, prove
from decascade.bounds.backward import Tracer
from decascade.bounds.driver import linear_bounds
from decascade.bounds.forward import run
from decascade.bounds.interval import propagate
from decascade.bounds.prove import tighten
from decascade.bounds.prove.branch import gets_past
from decascade.bounds.prove.exact import Answer, lowest
from decascade.bounds.regimes import regimes
from decascade.errors import UsageError
from decascade.ir.interpret import run as interpret
from decascade.ir.ops import Activation, Affine, Dense, Flatten, Foreign, GlobalPool, Pool

RELU = Activation("relu")


def seed_case(rng, size=12):
    """Two zero-padded convolutions with ReLU, the first non-negative."""
    first = Conv(
        np.abs(rng.normal(size=(6, 2, 3, 3))).astype(np.float32), np.abs(rng.normal(size=6)).astype(np.float32), padding=1
    )
    return chain(first, RELU, conv(rng, 6, 4), RELU, shape=(2, size, size))


def test_non_negative_layers_are_linear_on_the_positive_box():
    found = prove(seed_case(np.random.default_rng(0)), (0, 1), 10).activations[0]
    assert found.counts == {"proven-active": 6}
    assert found.linear
    assert found.margin > 0


def test_zero_bias_and_zero_inputs_are_proved_in_spite_of_rounding():
    rng = np.random.default_rng(0)
    graph = chain(Conv(rng.random((4, 2, 3, 3)).astype(np.float32), None, padding=1), RELU, shape=(2, 6, 6))
    assert prove(graph, (0, 1), 5).activations[0].counts == {"proven-active": 4}
    assert prove(graph, (-1, 0), 5).activations[0].counts == {"proven-inactive": 4}


def test_on_a_symmetric_box_every_channel_has_a_checked_witness():
    graph = seed_case(np.random.default_rng(0))
    found = prove(graph, (-1, 1), 10)
    assert found.channels == {"witnessed": 10}
    for record in found.activations:
        assert [w.channel for w in record.witnesses] == list(range(record.channels))
        tensor = next(n.inputs[0] for n in graph.nodes if n.name == record.node)
        for witness in record.witnesses:
            assert min(witness.values) < 0 < max(witness.values)
            for v, position, sample in zip(witness.values, witness.positions, witness.samples, strict=True):
                x = found.witnesses["x"][sample][None]
                assert np.abs(x).max() <= 1
                small = (
                    graph if x.shape[1:] == tuple(graph.shape("x")[1:]) else seed_case(np.random.default_rng(0), x.shape[-1])
                )
                assert interpret(small, {"x": x}, [tensor])[tensor][(0, witness.channel, *position)] == pytest.approx(
                    v, abs=1e-9
                )


def extremes(graph, tensor, lo, hi, rng):
    """Lowest and highest values seen of a tensor over many points; a lower bound on the true range."""
    shape = tuple(int(n) for n in graph.shape("x")[1:])
    low, high = np.inf, -np.inf
    for kind in range(40):
        share = rng.random((*shape, 500))
        x = np.where(rng.random((*shape, 500)) < rng.random(500), share, np.round(share)) if kind % 2 else np.round(share)
        found = {}
        run(graph, {"x": lo + x * (hi - lo)}, found.__setitem__)
        low, high = np.minimum(low, found[tensor].min(axis=-1)), np.maximum(high, found[tensor].max(axis=-1))
    return low, high


@pytest.mark.parametrize("seed", range(8))
def test_no_proof_is_contradicted_and_small_networks_are_decided(seed):
    rng = np.random.default_rng(seed)
    graph = chain(
        conv(rng, 2, 4, padding=0),
        RELU,
        conv(rng, 4, 4, padding=0),
        Activation("clip", (0.0, 0.5)),
        conv(rng, 4, 3, 1),
        Activation("leaky_relu", (0.1,)),
        shape=(2, 5, 5),
    )
    lo, hi = sorted(rng.normal(size=2) * 0.5)
    certificate = prove(graph, (lo, hi), 20, clock=process_time)
    assert certificate.decided("neurons") >= 0.99
    for record in certificate.activations:
        node = next(n for n in graph.nodes if n.name == record.node)
        low, high = (v.reshape(len(v), -1) for v in extremes(graph, node.inputs[0], lo, hi, rng))
        pieces = regimes(node.op, record.channels)
        assert (low >= record.lo[:, None] - 1e-9).all()
        assert (high <= record.hi[:, None] + 1e-9).all()
        for c, r in enumerate(record.regime):
            if r >= 0:
                assert low[c].min() >= pieces[r].lo - 1e-9
                assert high[c].max() <= pieces[r].hi + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_are_never_proved_wrong(seed):
    rng = np.random.default_rng(50 + seed)
    graph = random_net(rng, depth=4)
    lo, hi = sorted(0.3 * rng.normal(size=2))
    certificate = prove(graph, (lo, hi), 6, clock=process_time)
    for record in certificate.activations:
        node = next(n for n in graph.nodes if n.name == record.node)
        low, high = (v.reshape(len(v), -1) for v in extremes(graph, node.inputs[0], lo, hi, rng))
        assert (low >= record.lo[:, None] - 1e-9).all()
        assert (high <= record.hi[:, None] + 1e-9).all()
        assert sum(record.neurons.values()) == low.size


def brute_lowest(graph, tensor, lo, hi):
    """The true minimum of a piecewise-linear function need not be at a corner, but over corners it is an upper bound."""
    shape = tuple(int(n) for n in graph.shape("x")[1:])
    corners = np.array(list(product((lo, hi), repeat=int(np.prod(shape))))).T.reshape(*shape, -1)
    found = {}
    run(graph, {"x": corners}, found.__setitem__)
    return found[tensor].min(axis=-1)


@pytest.mark.parametrize(
    "op",
    [
        RELU,
        Activation("clip", (0.0, 0.4)),
        Activation("leaky_relu", (0.3,)),
        Activation("abs"),
        Activation("hard_sigmoid", (0.5, 0.5)),
    ],
    ids=lambda op: op.kind,
)
def test_the_exact_program_finds_the_minimum(op):
    """Bisection over thresholds: proved below the minimum, found above it; the minimum lies at a corner or lower."""
    rng = np.random.default_rng(4)
    layers = [
        Dense(Conv(rng.normal(size=s).astype(np.float32), rng.normal(size=s[0]).astype(np.float32)))
        for s in ((5, 4), (4, 5), (2, 4))
    ]
    graph = chain(layers[0], op, layers[1], op, layers[2], RELU, shape=(4,))
    tensor = graph.nodes[4].outputs[0]
    tracer = Tracer(graph, propagate(graph, Box.of(graph, (-1, 1))))
    scale = float(np.abs([tracer.bounds[tensor].lo, tracer.bounds[tensor].hi]).max())
    low, high = -scale, float(brute_lowest(graph, tensor, -1.0, 1.0)[0])
    for _ in range(12):
        middle = (low + high) / 2
        answer = gets_past(tracer, tensor, 0, (), 1, middle, 20)
        if answer.settled:
            low = middle
        else:
            assert answer.inputs is not None
            high = middle
            found = {}
            run(graph, {"x": answer.inputs["x"][..., None]}, found.__setitem__)
            assert found[tensor][0, 0] <= middle + 1e-3 * scale
    x = np.random.default_rng(0).uniform(-1, 1, (4, 200000))
    found = {}
    run(graph, {"x": x}, found.__setitem__)
    assert found[tensor][0].min() >= low - 1e-9
    assert found[tensor][0].min() <= high + 0.2 * scale


@pytest.mark.parametrize(("past", "settled"), [(0.2, True), (0.3, False)])
def test_the_exact_program_of_a_constant(past, settled):
    """A channel of zeros sees no input: its program has no columns."""
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    graph = chain(Conv(kernel, np.array([0.25], np.float32)), RELU, shape=(1, 3, 3))
    tracer = Tracer(graph, propagate(graph, Box.of(graph, (-1, 1))))
    answer = gets_past(tracer, graph.nodes[0].outputs[0], 0, (0, 0), 1, past, 20)
    assert answer.settled == settled
    assert answer.bound == pytest.approx(0.25, abs=1e-3)
    assert lowest(tracer, graph.nodes[0].outputs[0], 0, (0, 0), 1, 20).bound == answer.bound


def test_regimes_other_than_relu():
    rng = np.random.default_rng(0)
    weight = np.full((1, 1, 1, 1), 1.0, np.float32)
    for op, box, wanted in [
        (Activation("clip", (0.0, 6.0)), (1, 5), "proven-linear"), (Activation("clip", (0.0, 6.0)), (7, 9), "proven-high"),
        (Activation("clip", (0.0, 6.0)), (-2, -1), "proven-low"), (Activation("clip", (0.0, 6.0)), (5, 7), "witnessed"),
        (Activation("hard_swish"), (4, 5), "proven-identity"), (Activation("hard_swish"), (-5, -4), "proven-zero"),
        (Activation("hard_swish"), (-1, 1), "witnessed"), (Activation("leaky_relu", (0.1,)), (-2, -1), "proven-negative"),
        (Activation("abs"), (1, 2), "proven-positive"), (Activation("hard_sigmoid", (0.2, 0.5)), (-1, 1), "proven-linear"),
    ]:  # fmt: skip
        graph = chain(Conv(weight, None), op, shape=(1, 3, 3))
        assert prove(graph, box, 5).activations[0].counts == {wanted: 1}, (op, box)
    assert rng is not None


def test_a_channel_of_two_regimes_by_position_is_mixed():
    """At the edge the zero padding takes from the sum what the middle has: active inside, inactive at the corner."""
    graph = chain(Conv(np.ones((1, 1, 3, 3), np.float32), np.array([-6.5], np.float32), padding=1), RELU, shape=(1, 6, 6))
    record = prove(graph, (0.99, 1.01), 5).activations[0]
    assert record.status == (Status.MIXED,)
    assert record.neurons == {"proven": 36}


def test_preprocessing_inside_the_model_is_followed():
    weight = np.ones((1, 3, 1, 1), np.float32)
    scale = Affine(np.full(3, 1 / 255, np.float32), np.full(3, -0.5, np.float32))
    graph = chain(scale, Conv(weight, np.array([1.6], np.float32)), RELU, shape=(3, 4, 4))
    assert prove(graph, (0, 255), 5).activations[0].counts == {"proven-active": 1}


def test_the_certificate_is_json():
    found = prove(seed_case(np.random.default_rng(0)), (-1, 1), 5)
    facts = json.loads(json.dumps(found.facts()))
    assert facts["box"] == {"x": {"lo": -1.0, "hi": 1.0}}
    assert facts["channels"] == {"witnessed": 10}
    assert found.decided() == found.decided("neurons") == 1
    assert found.bound is None


def test_a_large_picture_is_analysed_small():
    sizes = {prove(seed_case(np.random.default_rng(0), n), (-1, 1), 5).analysed["x"][1:] for n in (40, 224)}
    assert len(sizes) == 1
    assert max(sizes.pop()) < 12
    found = prove(seed_case(np.random.default_rng(0), 224), (-1, 1), 5)
    assert sum(found.neurons.values()) == 10 * 224 * 224


def test_the_work_of_a_proof_does_not_grow_with_the_picture(monkeypatch):
    """The same neurons are bounded at the same size, whatever the picture; no time is measured."""

    right, asked = tighten.neuron_bounds, list[tuple[str, tuple[int, ...], tuple[int, ...]]]()

    def counted(tracer, name, channels, position):
        asked.append((name, tuple(channels), tuple(tracer.shape(name))))
        return right(tracer, name, channels, position)

    monkeypatch.setattr(tighten, "neuron_bounds", counted)
    work = list[list[tuple[str, tuple[int, ...], tuple[int, ...]]]]()
    for size in (32, 64, 224):
        rng = np.random.default_rng(0)
        layers = [conv(rng, 2, 6), RELU, conv(rng, 6, 6, stride=2), RELU, conv(rng, 6, 4), RELU]
        asked.clear()
        linear_bounds(chain(*layers, shape=(2, size, size)), (0, 1))
        work.append(list(asked))
    assert len(work[0]) > 20
    assert work[0] == work[1] == work[2]


def test_models_without_piecewise_activations_have_an_empty_certificate():
    found = prove(chain(Activation("sigmoid"), GlobalPool("avg")), (0, 1))
    assert found.activations == ()
    assert found.decided() == 1


def test_boxes_of_all_shapes():
    graph = chain(Pool("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), RELU, shape=(2, 4, 4))
    lo, hi = np.full((2, 4, 4), -1.0), np.ones((2, 4, 4))
    lo[0] = 0.5
    hi[1] = -0.25
    for box in [(lo, hi), {"x": (lo, hi)}, ([0.5, -1], [1, -0.25])]:
        assert prove(graph, box, 3).activations[0].counts == {"proven-active": 1, "proven-inactive": 1}


@pytest.mark.parametrize(("box", "words"), [
    ((1, 0), "lowest value 1 above highest 0: swap them"),
    ((0, float("inf")), "input range of x is not finite: give finite numbers"),
    (([0, 0, 0], 1), r"input range of shape \(3,\) for input x of shape \(2, 4, 4\)"),
    ({"y": (0, 1)}, "input range without an entry for input x"),
    ("nowhere.npz", "input range nowhere.npz does not exist: check the name"),
    (3, "input range 3: give the lowest and the highest value"),
])  # fmt: skip
def test_boxes_that_do_not_fit(box, words):
    graph = chain(RELU, shape=(2, 4, 4))
    with pytest.raises(UsageError, match=words):
        Box.of(graph, box)


def test_a_box_from_a_file(tmp_path):
    graph = chain(RELU, shape=(2, 4, 4))
    np.savez(tmp_path / "box.npz", lo=np.zeros(2), hi=np.ones(2))
    assert Box.of(graph, tmp_path / "box.npz").facts() == {"x": {"lo": 0.0, "hi": 1.0}}
    np.savez(tmp_path / "other.npz", low=np.zeros(2))
    with pytest.raises(UsageError, match=r"arrays low: it needs lo and hi"):
        Box.of(graph, str(tmp_path / "other.npz"))


def test_unknown_sizes_prove_nothing_and_say_so():
    graph = chain(Flatten(), Dense(Conv(np.ones((2, 8)))), RELU, shape=(2, 2, 2))
    from dataclasses import replace

    from decascade.ir.graph import Tensor

    open_size = replace(
        graph,
        nodes=graph.nodes[2:],
        inputs=(graph.nodes[1].output,),
        tensors={
            **graph.tensors,
            graph.nodes[1].output: Tensor(graph.nodes[1].output, ("N", 2, "H", 4)),
            graph.nodes[2].output: Tensor(graph.nodes[2].output, ("N", 2, "H", 4)),
        },
    )
    found = prove(open_size, (0, 1))
    assert found.activations == ()
    assert "is not known before the model runs: proofs over an input range need a model" in found.notes[0]
    assert "(an input shape makes it one)" in found.notes[0]


def test_an_operation_that_is_not_understood_leaves_what_follows_open_to_witnesses_alone():
    def twice(arrays):
        return [2 * np.asarray(arrays[0])]

    from dataclasses import replace

    graph = chain(RELU, RELU, shape=(2, 4, 4))
    first = replace(graph.nodes[0], op=Foreign("Twice", twice))
    graph = replace(graph, nodes=(first, graph.nodes[1]))
    found = prove(graph, (1, 2), 3).activations[0]
    assert found.counts == {"open": 2}
    assert prove(graph, (-1, 2), 3).activations[0].counts == {"witnessed": 2}


def test_a_solver_is_told_its_seconds_on_the_wall(monkeypatch):
    """Three times as many where the budget counts CPU time and the clock on the wall shows three times as much."""
    def told(factor):
        now, seconds = [0.0], []

        def clock():
            now[0] += 1e-4
            return now[0]

        def counted(at):
            def solver(*args):
                seconds.append(args[at])
                return Answer(-np.inf)

            return solver

        monkeypatch.setattr("decascade.bounds.state.perf_counter", lambda: factor * now[0])
        monkeypatch.setattr(tighten, "lowest", counted(5))
        monkeypatch.setattr(tighten, "gets_past", counted(6))
        rng = np.random.default_rng(3)
        layers = [conv(rng, 2, 4), RELU, conv(rng, 4, 4), RELU, conv(rng, 4, 4), RELU]
        prove(chain(*layers, shape=(2, 5, 5)), (0.45, 0.55), 2.0, clock=clock, workers=1)
        return np.array(seconds)

    once, thrice = told(1.0), told(3.0)
    assert len(once)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-9)
