"""Rows of a report in terms of the graph that was given, where values were looked at before and after merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from decascade.cost import Cost, Target
from decascade.ir.graph import Graph, Node
from decascade.regions.cascade import Cascade, layers_of
from decascade.regions.sizes import sized
from decascade.regions.values.simplify import Simplified


@dataclass(frozen=True, eq=False)
class Story:
    """The given graph, what its values made of it, the rows of the merge of that, and what values made of the merged graph."""

    given: Graph
    first: Simplified
    rows: Sequence[Cascade]
    last: Simplified
    target: Target

    @property
    def result(self) -> Graph:
        return self.last.graph

    def told(self) -> list[Cascade]:
        """Every given node that is gone and every new one in exactly one row of a merge, or of a change of values."""
        if not self.first.words and not self.last.words:
            return list(self.rows)
        there = {n.name for n in self.given.nodes}
        gone = there - {n.name for n in self.result.nodes}
        stands = {n.name: self._stands_for(n.name) for n in self.result.nodes if n.name not in there}
        rows, taken = [self._in_given_names(row) if row.decision == "left" else row for row in self.rows], set[str]()
        for i, row in enumerate(rows):
            if row.decision == "merged":
                rows[i], used = self._merged(row, gone, stands)
                taken |= used
        return [*(r for r in rows if r.decision == "left" or r.removed), *self._of_values(gone - taken, stands)]

    def _stands_for(self, name: str) -> str:
        """The node before the last look at values that a node of the result stands for, in given names if it is one."""
        middle = self.last.home[name].name if name in self.last.home else name
        return self.first.home[middle].name if middle in self.first.home else middle

    def _given(self, names: Iterable[str]) -> set[str]:
        return {self.first.home[n].name if n in self.first.home else n for n in names}

    def _in_given_names(self, row: Cascade) -> Cascade:
        return replace(row, layers=tuple(dict.fromkeys(
            layer for name in row.layers
            for layer in (layers_of([self.first.home[name]]) if name in self.first.home else (name,)))))

    def _merged(self, row: Cascade, gone: set[str], stands: Mapping[str, str]) -> tuple[Cascade, set[str]]:
        removed = self._given(row.removed) & gone
        added = [n.name for n in self.result.nodes if n.name in stands and (stands[n.name] in {*row.added, *removed})]
        context = bool(removed & self.first.context) or bool(set(row.added) & self.last.context)
        why = dict.fromkeys(w for name in (*sorted(removed), *row.added)
                            for w in (*self.first.words.get(name, ()), *self.last.words.get(name, ())))
        return self._row(removed, added, "; ".join([row.reason, *why]), row.border, context), removed

    def _of_values(self, gone: set[str], stands: Mapping[str, str]) -> list[Cascade]:
        """A row for every reason why nodes changed that no merge took up."""
        groups = dict[str, list[str]]()
        for node in self.given.nodes:
            if node.name in gone:
                words = dict.fromkeys((*self.first.words.get(node.name, ()), *self.last.words.get(node.name, ())))
                groups.setdefault("; ".join(words), []).append(node.name)
        context = self.first.context | self.last.context
        return [
            self._row(set(names), [n for n, old in stands.items() if old in set(names)], why, "free",
                      bool(set(names) & context) or len(names) > 1)
            for why, names in groups.items()
        ]

    def _row(self, removed: set[str], added: Sequence[str], why: str, border: str, context: bool) -> Cascade:
        old = [n for n in self.given.nodes if n.name in removed]
        new = [n for n in self.result.nodes if n.name in set(added)]
        before, after = self._cost(old, self.given), self._cost(new, self.result)
        ends = ("", "") if context or not old or not new else (old[0].inputs[0], old[-1].output)
        return Cascade(layers_of(old), "merged", "exact", why, border, before, after, *ends,  # type: ignore[arg-type]
                       tuple(n.name for n in old), tuple(n.name for n in new))

    def _cost(self, nodes: Sequence[Node], graph: Graph) -> Cost:
        return self.target.segment_cost(nodes, sized(graph).tensors)
