"""What is not marked as right at one size only is right at every size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cascades import Options, cascades
from decascade.algebra.border import find_border
from decascade.algebra.program import Program
from decascade.errors import GraphError
from decascade.ir.graph import Graph
from decascade.ir.names import Names
from decascade.ir.ops import BiasMap, Slice
from decascade.ir.shapes import infer_graph
from decascade.regions.anysize import right_at_any_size
from decascade.regions.candidates import FORMS
from decascade.regions.forms import Builder, write_form
from decascade.regions.kernels import Composed
from decascade.regions.lower import lower
from laws import assert_same


def grown(graph: Graph, more: int) -> Graph:
    """The same nodes on a map that is larger by `more` along every axis."""
    x = graph.tensors["x"]
    shape = (*x.shape[:2], *(n + more for n in x.shape[2:]))
    open_ = {name: replace(tensor, shape=None) for name, tensor in graph.tensors.items()}
    return infer_graph(replace(graph, tensors={**open_, "x": replace(x, shape=shape)}))


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(cascades(Options(ranks=(1, 2), depth=(2, 3), size=(5, 9))), st.data())
def test_random_regions_at_other_sizes(graph, data):
    program = lower(graph, graph.nodes, "x", "y")
    assert isinstance(program, Program)
    assume(graph.spatial("x") and not any(isinstance(n.op, (Slice, BiasMap)) for n in graph.nodes))
    border = find_border(program)
    form = data.draw(st.sampled_from(FORMS[border.kind]))
    builder = Builder(graph, "x", "y", "new", Names.of(graph))
    assume(write_form(form, Composed(border), builder))
    assume(right_at_any_size(form, program, builder.nodes))
    new = graph.with_nodes(builder.nodes, builder.tensors)
    for more in (1, 2, 3):
        try:
            larger = grown(graph, more)
        except GraphError:  # branches that stride differently meet at some sizes only: the model itself does not run there
            continue
        x = np.random.default_rng(more).standard_normal((2, *larger.shape("x")[1:]))
        assert_same(larger, grown(new, more), {"x": x})
