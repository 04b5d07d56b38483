"""What is run in the solver process is what is run here; where there is none, or it dies, it is run here."""

from __future__ import annotations

import operator
import os
import sys
from contextlib import closing
from threading import Thread
from time import perf_counter, process_time, sleep

import numpy as np
import pytest

from bounds.nets import chain, conv, random_net
from decascade.bounds import driver, prove
from decascade.bounds.backward import Tracer
from decascade.bounds.box import Box
from decascade.bounds.interval import propagate
from decascade.bounds.prove import branch, solver_process
from decascade.bounds.prove.solver_process import SolverProcess
from decascade.bounds.prove.unroll import unroll
from decascade.ir.ops import Activation

RELU = Activation("relu")


@pytest.fixture
def beside():
    """One that is up."""
    with closing(SolverProcess()) as it:
        it.spent = solver_process.WORTH
        it.ask(os.getpid)
        assert it.up.wait(60)
        yield it


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(solver_process, "WORTH", 0.0)


def test_it_is_another_process_that_answers_as_this_one(beside):
    assert beside.ask(os.getpid) == beside.process.pid != os.getpid()
    rng = np.random.default_rng(1)
    graph = chain(conv(rng, 2, 4), RELU, conv(rng, 4, 4), RELU, conv(rng, 4, 3), RELU, shape=(2, 7, 7))
    tensor = graph.nodes[-1].inputs[0]
    found = unroll(Tracer(graph, propagate(graph, Box.of(graph, (-1.0, 1.0)))), tensor, 1, (3, 3), 1)
    assert len(found.relus) > 10
    for past in (-1e3, 0.0):
        here, there = branch.search(found, past, 20.0), beside.ask(branch.search, found, past, 20.0)
        assert (here.settled, here.ended, here.bound) == (there.settled, there.ended, there.bound)
        assert (here.inputs is None) == (there.inputs is None)
    assert not here.settled
    np.testing.assert_array_equal(*(a.inputs[graph.inputs[0]] for a in (here, there)))


def test_what_libraries_print_is_not_taken_for_an_answer(beside):
    assert beside.ask(print, "some lines") is None
    assert beside.ask(os.write, 1, b"others\n") == 7
    assert beside.ask(operator.add, 3, 4) == 7
    assert beside.ask(os.getpid) == beside.process.pid


def test_what_a_function_raises_is_raised_here(beside):
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        beside.ask(operator.truediv, 1, 0)
    assert beside.ask(os.getpid) == os.getpid()
    beside.process.wait(60)


def test_a_process_that_was_killed_is_done_without(beside):
    beside.process.kill()
    beside.process.wait(60)
    assert beside.ask(os.getpid) == os.getpid()
    assert beside.ask(operator.add, 3, 4) == 7


def test_closing_ends_what_it_is_at(beside):
    raised = []

    def asks():
        try:
            beside.ask(sleep, 600)
        except EOFError as error:
            raised.append(str(error))

    lane = Thread(target=asks)
    lane.start()
    sleep(0.2)
    beside.close()
    lane.join(60)
    assert raised == ["the solver process was closed"]
    assert beside.process.poll() is not None


def test_nothing_is_started_after_it_was_closed(at_once):
    closed = SolverProcess()
    closed.close()
    with pytest.raises(EOFError, match="the solver process was closed"):
        closed.ask(operator.add, 3, 4)
    closed._start()
    assert closed.process is None


def test_quick_searches_start_none():
    with closing(SolverProcess()) as it:
        assert it.ask(operator.add, 3, 4) == 7
        assert it.process is None


def no_processes(monkeypatch):
    def none(*_args, **_given):
        raise OSError("no more processes")

    monkeypatch.setattr(solver_process.subprocess, "Popen", none)


@pytest.mark.parametrize("without", [
    lambda patch: patch.setattr(sys, "frozen", True, raising=False), lambda patch: patch.setattr(sys, "executable", None),
    no_processes,
])
def test_where_none_can_be_started_it_is_run_here(monkeypatch, at_once, without):
    without(monkeypatch)
    with closing(SolverProcess()) as it:
        assert [it.ask(os.getpid) for _ in range(3)] == [os.getpid()] * 3
        assert it.process is None


def test_a_process_that_says_nothing_is_done_without(monkeypatch, at_once):
    """As where the interpreter is not Python: `true` ends at once."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with closing(SolverProcess()) as it:
        assert it.ask(os.getpid) == os.getpid()
        it.process.wait(60)
        assert it.ask(os.getpid) == os.getpid()
        assert not it.up.is_set()


def test_no_file_of_the_working_folder_is_run(monkeypatch, tmp_path, at_once):
    for name in ("numpy", "decascade", "pickle", "random", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with closing(SolverProcess()) as it:
        it.ask(os.getpid)
        assert it.up.wait(60)
        assert it.ask(np.add, 3, 4) == 7
        assert it.ask(os.getpid) == it.process.pid
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("given", "asks"), [
    ({"workers": 2}, True), ({"workers": 1}, False), ({"workers": 2, "clock": process_time}, False),
    ({"workers": 2, "clock": lambda: perf_counter()}, False),
])
def test_searches_are_run_beside_where_there_are_two_workers_and_the_wall_s_clock(monkeypatch, at_once, given, asks):
    made = []

    class Counted(SolverProcess):
        def __init__(self):
            super().__init__()
            self.asked = 0
            made.append(self)

        def ask(self, function, *arguments):
            self.asked += 1
            return super().ask(function, *arguments)

    monkeypatch.setattr(driver, "SolverProcess", Counted)
    rng = np.random.default_rng(5)
    graph = chain(*(op for _ in range(4) for op in (conv(rng, 3, 3), RELU)), shape=(3, 6, 6))
    found = prove(graph, (0.45, 0.55), 10.0, **given)
    assert found.neurons.get("proven", 0) > 0
    assert (sum(m.asked for m in made) > 0) == asks
    for m in made:
        assert m.closed
        assert m.process is None or m.process.poll() is not None


def test_proofs_are_the_same_where_it_dies_at_every_question(monkeypatch, at_once):
    graph = random_net(np.random.default_rng(3))
    whole = prove(graph, (-0.5, 0.5), 20, workers=2)

    class Dying(SolverProcess):
        def ask(self, function, *arguments):
            if self.process is not None:
                self.up.wait(60)
                self.process.kill()
            return super().ask(function, *arguments)

    monkeypatch.setattr(driver, "SolverProcess", Dying)
    again = prove(graph, (-0.5, 0.5), 20, workers=2)
    assert whole.neurons.get("proven") == again.neurons.get("proven")
    for a, b in zip(whole.activations, again.activations, strict=True):
        assert (a.regime == b.regime).all()
