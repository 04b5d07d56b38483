"""From the tables of a TFLite file to a quantised graph: operations by rule, shapes checked."""

from __future__ import annotations

from decascade.errors import DecascadeError, FormatError, UsageError
from decascade.stream.graph import Graph
from decascade.stream.read.builder import Builder, one_row_high
from decascade.stream.read.flat import File, Operator
from decascade.stream.read.rules import RULES, Rule
from decascade.stream.read.shapes import check_shapes


def build(file: File) -> Graph:
    """The quantised graph.

    Raises:
        UsageError: something that is not streamed, by name, with its way round.
    """
    if len(file.inputs) != 1:
        raise UsageError(f"the file has {len(file.inputs)} inputs: streamed C takes one; "
                         "use the .tflite file with its own interpreter")
    if not file.operators:
        raise UsageError("the file has no operations: there is nothing to stream")
    builder = Builder(file, one_row_high(file))
    source = builder.place(file.inputs[0])
    for operator in file.operators:
        rule = RULES.get(operator.kind)
        if rule is None:
            raise UsageError(_unknown(operator))
        _apply(rule, builder, operator)
    graph = Graph(tuple(builder.maps), tuple(builder.ops), source, tuple(builder.place(i) for i in file.outputs))
    check_shapes(graph)
    return graph


def _apply(rule: Rule, builder: Builder, operator: Operator) -> None:
    """A rule, which takes inputs, options and scales to be there.

    Raises:
        FormatError: they are not, or make no sense.
    """
    try:
        rule(builder, operator)
    except (IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, DecascadeError):
            raise
        raise FormatError(f"{operator.kind} lacks something that it needs ({' '.join(str(error).split())[:80]})") from None


def _unknown(operator: Operator) -> str:
    return (f"{operator.kind} has no streamed form: replace it in the model, "
            "or export without streaming (decascade export MODEL -o OUT.tflite --int8 --data D.npz)")
