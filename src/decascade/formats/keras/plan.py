"""Where in the user's model the changes of a graph go.

Every call of a layer is kept, gone, or kept in part (the activation of a convolution that was merged).  New nodes that
hang together go into the nested model that they lie in; one that they cross the border of is opened into its parent,
and so is one that is called several times as soon as one call is to differ: Keras cannot load a model again in which
two models share a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from decascade.formats.keras.graph import Call, Scope
from decascade.formats.keras.read import Read
from decascade.ir.graph import Graph, Node, topological
from decascade.ir.ops import Foreign


@dataclass(frozen=True, eq=False)
class Kept:
    """A call that is made again, on the tensors `reads`."""

    call: Call
    reads: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Made:
    """A node that gets a new layer: one of decascade's, or what remains of a layer of the user's."""

    node: Node


Item = Kept | Made | Scope


@dataclass(eq=False)
class Plan:
    """Per model that is built, what runs in it, in order; and the models in which something is new."""

    items: dict[int, list[Item]] = field(default_factory=dict[int, list[Item]])
    changed: set[int] = field(default_factory=set[int])


@dataclass(eq=False)
class _Planner:
    read: Read
    old: Graph
    new: Graph
    opened: set[int] = field(default_factory=set[int])
    home: dict[int, list[Kept | Made]] = field(default_factory=dict[int, list["Kept | Made"]])
    scope_of: dict[str, Scope] = field(default_factory=dict[str, Scope])
    known: dict[int, set[str]] = field(default_factory=dict[int, set[str]])
    changed: set[int] = field(default_factory=set[int])

    def plan(self) -> Plan:
        self._map_tensors()
        for scope in self.read.whole.scopes():
            self.home[id(scope)] = []
        loose = self._sort_out()
        for group in _groups(loose, self.old):
            self._place(group)
        self._open_where_ends_are_gone()
        self._open_all_calls_of_one_model()
        plan = Plan()
        for scope in self.read.whole.scopes():
            if id(scope) not in self.opened:
                plan.items[id(scope)] = self._ordered(scope)
        plan.changed = self.changed
        return plan

    def _map_tensors(self) -> None:
        nodes = {node.name: node for node in self.old.nodes}
        for scope in self.read.whole.scopes():
            names = self.known[id(scope)] = set(scope.names.values())
            for item in scope.items:
                if isinstance(item, Call):
                    inner = {t for n in item.nodes for t in nodes[n].outputs}
                    names |= inner
                    self.scope_of.update(dict.fromkeys(inner, scope))
        for name in self.old.inputs:
            self.scope_of[name] = self.read.whole

    def _sort_out(self) -> list[Kept | Made]:
        """Kept calls go home at once; returns what has to find its place."""
        now = {node.name: node for node in self.new.nodes}
        before = {node.name: node for node in self.old.nodes}
        loose = list[Kept | Made]()
        for scope in self.read.whole.scopes():
            for call in (item for item in scope.items if isinstance(item, Call)):
                kept = [now[n] for n in call.nodes if n in now and now[n].origin]
                # a layer is what its configuration and its weights say: with another operation it is a new one
                if len(kept) < len(call.nodes) or any(n.op is not before[n.name].op for n in kept):
                    self.changed.add(id(scope))
                    loose += [Made(node) for node in kept]
                elif all(n.inputs == before[n.name].inputs for n in kept):
                    self.home[id(scope)].append(Kept(call, call.inputs))
                elif all(n.inputs == before[n.name].inputs for n in kept[1:]):
                    self.changed.add(id(scope))
                    loose.append(Kept(call, kept[0].inputs))
                else:
                    self.changed.add(id(scope))
                    loose += [Made(node) for node in kept]
        return loose + [Made(n) for n in self.new.nodes if n.name not in before or not n.origin]

    def _place(self, group: Sequence[Kept | Made]) -> None:
        made = {t for item in group for t in written(item)}
        reads = {t for item in group for t in _reads(item)} - made
        old = [t for t in made if t in self.scope_of]
        if not old:
            if made.intersection(self.new.outputs):  # a further output of the whole model
                self.home[id(self.read.whole)] += group
                self.changed.add(id(self.read.whole))
            return
        scope = self.scope_of[old[0]]
        for name in old[1:]:
            scope = _common(scope, self.scope_of[name])
        for name in reads:
            while name not in self.known[id(scope)] and not _inside(self.scope_of[name], scope):
                scope = self._open(scope)
        for name in (*old, *(t for t in reads if t not in self.known[id(scope)])):
            inner = self.scope_of[name]
            while inner is not scope:
                inner = self._open(inner)
        self.home[id(scope)] += group
        self.changed.add(id(scope))

    def _open(self, scope: Scope) -> Scope:
        assert scope.parent is not None
        self.opened.add(id(scope))
        return scope.parent

    def _open_where_ends_are_gone(self) -> None:
        there = {*self.new.inputs, *(t for node in self.new.nodes for t in node.outputs)}
        for scope in self.read.whole.scopes():
            if scope.parent is not None and not there.issuperset((*scope.inputs, *scope.outputs)):
                self.opened.add(id(scope))

    def _open_all_calls_of_one_model(self) -> None:
        scopes = [s for s in self.read.whole.scopes() if s.parent is not None]
        calls = Counter(id(s.model) for s in scopes)
        for scope in scopes:
            outer = scope if id(scope) in self.changed or id(scope) in self.opened else None
            while outer is not None:
                self.changed.add(id(outer))
                outer = outer.parent
        differ = {id(s.model) for s in scopes if id(s) in self.changed}
        self.opened |= {id(s) for s in scopes if id(s.model) in differ and calls[id(s.model)] > 1}

    def _ordered(self, scope: Scope) -> list[Item]:
        """What runs in a scope, models opened into it included, in an order in which it can run."""
        found = list[Item]()
        stack = [scope]
        while stack:
            one = stack.pop()
            found += self.home[id(one)]
            for item in one.items:
                if isinstance(item, Scope):
                    if id(item) in self.opened:
                        stack.append(item)
                        self.changed.add(id(scope))
                    elif any(self.home[id(s)] for s in item.scopes()):
                        found.append(item)
                        if any(id(s) in self.changed or id(s) in self.opened for s in item.scopes()):
                            self.changed.add(id(scope))
        by_name = {str(index): item for index, item in enumerate(found)}
        place = {id(call): i for i, call in enumerate(self.read.whole.calls())}
        order = sorted(by_name, key=lambda n: _place_of(by_name[n], place))
        nodes = [Node(n, Foreign("item"), _reads(by_name[n]), written(by_name[n])) for n in order]
        return [by_name[node.name] for node in topological(nodes, scope.inputs)]


def make_plan(read: Read, old: Graph, new: Graph) -> Plan:
    """The plan that turns the model of the graph `old` into one of the graph `new`."""
    return _Planner(read, old, new).plan()


def _reads(item: Item) -> tuple[str, ...]:
    return item.reads if isinstance(item, Kept) else item.inputs if isinstance(item, Scope) else item.node.inputs


def written(item: Item) -> tuple[str, ...]:
    """The graph's tensors that it makes."""
    return item.call.outputs if isinstance(item, Kept) else item.outputs if isinstance(item, Scope) else item.node.outputs


def _place_of(item: Item, place: dict[int, int]) -> int:
    if isinstance(item, Kept):
        return place[id(item.call)]
    return len(place) if isinstance(item, Made) else min((place[id(c)] for c in item.calls()), default=0)


def _groups(items: Iterable[Kept | Made], old: Graph) -> list[list[Kept | Made]]:
    """Items that share a tensor that the old graph does not have belong together."""
    groups = list[list[Kept | Made]]()
    at = dict[str, int]()
    for item in items:
        fresh_names = [t for t in (*_reads(item), *written(item)) if t not in old.tensors]
        joined = sorted({at[t] for t in fresh_names if t in at})
        target = joined[0] if joined else len(groups)
        if not joined:
            groups.append([])
        for other in joined[1:]:
            groups[target] += groups[other]
            groups[other] = []
        at = {t: target if g in joined else g for t, g in at.items()} if len(joined) > 1 else at
        groups[target].append(item)
        at.update(dict.fromkeys(fresh_names, target))
    return [group for group in groups if group]


def _inside(scope: Scope | None, outer: Scope) -> bool:
    while scope is not None and scope is not outer:
        scope = scope.parent
    return scope is outer


def _common(a: Scope, b: Scope) -> Scope:
    while not _inside(b, a):
        assert a.parent is not None
        a = a.parent
    return a
