"""Students put in, one after the other, each fitted on what those before it give."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decascade.algebra.conv import Conv
from decascade.cost import target_named
from decascade.formats.registry import format_of
from decascade.ir.check import check
from decascade.ir.graph import Graph
from decascade.ir.interpret import run
from decascade.regions.merge import Options, merge_graph
from fit.sites import NETS, batches, gathered, held, samples_for, torch, unexplained
from laws import Net

assemble = import_module("decascade.compression.plan.assemble")
candidates = import_module("decascade.compression.plan.candidates")
factored = import_module("decascade.compression.students.factored")
hidden = import_module("decascade.compression.students.hidden")
students = import_module("decascade.compression.students.families")
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MACS = target_named("macs")


def arrays(graph: Graph) -> dict[tuple[str, str], np.ndarray]:
    """All weights by node and field."""
    found = dict[tuple[str, str], np.ndarray]()
    for node in graph.nodes:
        op: Any = getattr(node.op, "layer", node.op)
        for field in ("weight", "bias", "scale", "shift", "slope", "values"):
            if getattr(op, field, None) is not None:
                found[node.name, field] = np.asarray(getattr(op, field))
    return found


def same_bits(a: Graph, b: Graph) -> bool:
    left, right = arrays(a), arrays(b)
    return left.keys() == right.keys() and all(left[k].tobytes() == right[k].tobytes() for k in left)


def disjoint(graph: Graph, span: int, wanted: type) -> list[Any]:
    """Candidates of one family whose segments do not meet, in graph order, the dearest of each segment."""
    taken, found = set[str](), list[Any]()
    for candidate in sorted(candidates.candidates(graph, MACS, span), key=lambda c: -c.cost):
        nodes = set(candidate.student.site.segment.nodes)
        if isinstance(candidate.student, wanted) and not nodes & taken:
            taken |= nodes
            found.append(candidate)
    return found


def test_what_is_put_in_stands_between_entry_and_exit():
    graph = NETS["residual_2d"]()
    x = samples_for(graph, 20)
    every = list(candidates.candidates(graph, MACS, 3))
    moments = gathered(graph, x, [r for c in every for r in c.student.requests()])
    for one in candidates.fit_all(every, moments):
        site = one.candidate.student.site
        student = assemble.put_in(graph, one)
        check(student)
        assert (student.inputs, student.outputs) == (graph.inputs, graph.outputs)
        kept = [n for n in graph.nodes if n.name not in site.segment.nodes]
        assert all(node in student.nodes for node in kept)
        assert MACS.graph_cost(graph).value - MACS.graph_cost(student).value == one.candidate.saving
        assert {n.name for n in student.nodes} - {n.name for n in graph.nodes}


def test_names_that_are_taken_are_not_used_again():
    net = Net((2, 6))
    x = net.conv("x", 3, 3, pad=1, name="y")
    x = net.relu(net.conv(x, 3, 3, name="y_student/0"))
    graph = net.graph(net.conv(x, 2, 1, name="y_student'"))
    one = next(c for c in candidates.candidates(graph, MACS, 1) if c.student.site.segment.nodes == ("y",) and c.cost)
    moments = gathered(graph, samples_for(graph, 20), one.student.requests())
    student = assemble.put_in(graph, candidates.Fitted(one, one.student.fit(moments)))
    check(student)
    assert {"y_student/0", "y_student'"} <= {n.name for n in student.nodes}
    given = {n.name for n in graph.nodes}
    made = [n.name for n in student.nodes if n.name not in given]
    assert made
    assert len({n.name for n in student.nodes}) == len(student.nodes)
    assert not {o for n in student.nodes for o in n.outputs if n.name in made} & (graph.tensors.keys() - {"y"})


def test_later_students_make_up_for_earlier_ones():
    """The last layer is the least-squares optimum from what the student gives it to what the original makes there."""
    graph = NETS["vectors"]()
    x, count = samples_for(graph, 400), list[float]()
    sites = [students.site_of(graph, s) for s in candidates.find_segments(graph, 1)]
    first = factored.LowRank(sites[0], next(sites[0].windows()), 2)
    last = students.OneConv(sites[-1], next(sites[-1].windows()))
    chosen = [candidates.Candidate(s, 0.0, 1.0) for s in (last, first)]
    student = assemble.assemble(graph, chosen, batches(x, 50), len(x), 0, lambda stage, share: count.append(share))
    entry, exit_ = last.site.segment.entry, last.site.segment.exit
    given, wanted = run(student, {"x": x}, [entry])[entry], run(graph, {"x": x})[exit_]
    p, z = given[~held(400)], wanted[~held(400)]
    weight = np.linalg.lstsq(np.hstack([p, np.ones((len(p), 1))]), z, rcond=None)[0]
    (op,) = [n.op for n in student.nodes if n.outputs == (exit_,)]
    assert np.allclose(op.layer.weight, weight[:-1].T, atol=2e-4 * np.abs(weight).max())
    assert np.allclose(op.layer.bias, weight[-1], atol=2e-4 * np.abs(weight).max())
    assert count == [0.5, 1.0]
    moments = gathered(graph, x, [r for c in chosen for r in c.student.requests()])
    apart = graph
    for one in candidates.fit_all(chosen, moments):
        apart = assemble.put_in(apart, one)
    errors = [unexplained(wanted, run(g, {"x": x})[exit_]) for g in (student, apart)]
    assert errors[0] < errors[1]


def test_when_it_is_late_what_is_known_is_not_fitted_again():
    graph = NETS["vectors"]()
    x, given = samples_for(graph, 200), list[int]()
    site = next(s for s in (students.site_of(graph, s) for s in candidates.find_segments(graph, 1)) if s is not None)
    chosen = [candidates.Candidate(students.OneConv(site, next(site.windows())), 0.0, 1.0)]
    moments = gathered(graph, x, chosen[0].student.requests())
    known = list(candidates.fit_all(chosen, moments))

    class Watched:
        def __iter__(self) -> Any:
            given.append(1)
            return iter(batches(x, 50))

    for late, some, passes in ((True, known, 0), (False, known, 1), (True, [], 1)):
        given.clear()
        made = assemble.assemble(graph, chosen, Watched(), len(x), 0, lambda *_: None, some, lambda late=late: late)
        assert len(given) == passes
        assert len(made.nodes) == len(graph.nodes)
        if not passes:
            assert same_bits(made, assemble.put_in(graph, known[0]))


def test_what_a_student_explains_wholly_changes_nothing():
    net = Net((3, 8, 8), "float64")
    first, bias = net.weights(8, 3, 3, 3), net.vector(8)
    bias[[1, 4, 5]] = -100  # off on all data
    x = net.relu(net.emit(Conv(first, bias, 1, 1, 1), "x"))
    graph = net.graph(net.conv(net.relu(net.conv(x, 4, 3, pad=1)), 2, 1))
    x = samples_for(graph, 40)
    (chosen,) = [c for c in candidates.candidates(graph, MACS, 2) if isinstance(c.student, hidden.Narrowed)
                 and c.student.widths == (5,)]
    student = assemble.assemble(graph, [chosen], batches(x, 20), len(x), 0, lambda *_: None)
    assert MACS.graph_cost(student).value == MACS.graph_cost(graph).value - chosen.saving
    y = graph.outputs[0]
    assert unexplained(run(graph, {"x": x})[y], run(student, {"x": x})[y]) < 1e-9
    assert assemble.assemble(graph, [], batches(x), len(x), 0, lambda *_: None) is graph


@pytest.mark.skipif(not (SHARED / "models").exists(), reason="the shared models are not beside the checkout")
def test_a_published_network_is_the_same_every_time():
    path = SHARED / "models" / "mlperf_tiny_resnet8_cifar10.h5"
    graph, _ = merge_graph(format_of(path).read(path).graph, Options(MACS))
    with np.load(SHARED / "data" / "cifar10_train_part0.npz") as part:
        x = part["x"][:64].astype(np.float32).transpose(0, 3, 1, 2)
    parts = [{graph.inputs[0]: torch.from_numpy(x[i : i + 16])} for i in range(0, len(x), 16)]
    every = candidates.supported(candidates.candidates(graph, MACS, 2), len(x))
    chosen, taken = list[Any](), set[str]()
    for candidate in sorted(every, key=lambda c: (c.cost / c.before - 0.5) ** 2):  # about half of every segment
        nodes = set(candidate.student.site.segment.nodes)
        if candidate.student.site.size and not nodes & taken:
            taken |= nodes
            chosen.append(candidate)
    chosen = chosen[:4]
    made = [assemble.assemble(graph, chosen, parts, len(x), seed, lambda *_: None) for seed in (0, 0, 1)]
    assert same_bits(made[0], made[1])
    assert not same_bits(made[0], made[2])
    assert MACS.graph_cost(made[0]).value == MACS.graph_cost(graph).value - sum(c.saving for c in chosen)
