// The table of cascades: filtered, sorted, a hundred rows at a time.

const BATCH = 100;
const COLUMNS = [
  { head: "#", of: (c) => c.index + 1, number: true },
  { head: "Layers", of: (c) => c.layers.join(" ") },
  { head: "Decision", of: (c) => `${c.decision} ${c.decision === "merged" ? c.tier : ""}` },
  { head: "Why", of: (c) => c.reason },
  { head: "Border", of: (c) => BORDERS[c.border] },
  { head: "Error", of: (c) => (c.error ? c.error.maxRel : null), number: true },
  { head: "Before", of: (c) => c.before, number: true },
  { head: "After", of: (c) => c.after, number: true },
  { head: "Change", of: (c) => (c.after === null || !c.before ? null : c.after / c.before), number: true },
];

function startTable() {
  const table = byId("table"), body = make("tbody"), head = make("tr");
  const state = { column: 0, up: true, rows: [], shown: BATCH };
  COLUMNS.forEach((column, i) => {
    const label = ["Before", "After"].includes(column.head) ? `${column.head}, ${data.unit}` : column.head;
    head.append(make("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": i ? "none" : "ascending" }, [
      make("button", { type: "button", text: label, on: { click: () => sort(i) } }),
    ]));
  });
  table.append(make("caption", { text: "Cascades", hidden: "" }), make("thead", {}, [head]), body);

  const filters = { decision: (c) => c.decision, tier: (c) => (c.decision === "merged" ? c.tier : ""), border: (c) => c.border };
  const words = { merged: "replaced", left: "left alone", ...BORDERS };
  for (const [id, of] of Object.entries(filters)) {
    const values = [...new Set(cascades.map(of))].filter(Boolean).sort();
    byId(id).append(...values.map((value) => make("option", { value, text: words[value] || value })));
    byId(id).addEventListener("change", refresh);
  }
  byId("words").addEventListener("input", refresh);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("all").addEventListener("click", () => { state.shown = Infinity; fillRows(); });
  addEventListener("beforeprint", () => { state.shown = Infinity; fillRows(); });

  function sort(column) {
    state.up = state.column === column ? !state.up : true;
    state.column = column;
    [...head.children].forEach((th, i) => th.setAttribute("aria-sort", i !== column ? "none" : state.up ? "ascending" : "descending"));
    refresh();
  }

  function refresh() {
    const wanted = byId("words").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (c) => {
      const text = `${c.layers.join(" ")} ${c.reason} ${c.tier} ${c.decision} ${BORDERS[c.border]}`.toLowerCase();
      return wanted.every((word) => text.includes(word))
        && Object.entries(filters).every(([id, of]) => !byId(id).value || of(c) === byId(id).value);
    };
    const { of } = COLUMNS[state.column], sign = state.up ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [of(a), of(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index; // what is unknown comes last
      return (typeof x === "number" ? x - y : x.localeCompare(y)) * sign || a.index - b.index;
    };
    state.rows = cascades.filter(fits).sort(compare);
    state.shown = BATCH;
    fillRows();
  }

  function fillRows() {
    const rows = state.rows.slice(0, state.shown);
    body.replaceChildren(...rows.map(rowOf));
    byId("count").textContent = `${state.rows.length} of ${cascades.length}`;
    byId("all").hidden = rows.length === state.rows.length;
    byId("all").textContent = `Show all ${state.rows.length}`;
  }

  function rowOf(c) {
    const ratio = c.after === null || !c.before ? 1 : c.after / c.before;
    const cells = [
      { text: c.index + 1, number: true }, {}, {}, { text: c.reason }, { text: BORDERS[c.border] },
      { text: c.error ? small(c.error.maxRel) : "", number: true }, { text: quantity(c.before), number: true },
      { text: quantity(c.after), number: true }, { text: change(c.before, c.after), number: true, mood: ratio < 1 ? " less" : ratio > 1 ? " dearer" : "" },
    ].map((cell, i) => make("td", { text: cell.text, class: cell.number ? `number${cell.mood || ""}` : null, "data-head": COLUMNS[i].head }));
    cells[1].append(make("button", { type: "button", class: "pick", text: chain(c.layers), title: c.layers.join(" → ").slice(0, 2000) }));
    cells[2].append(...badges(c).slice(0, 2).filter((b) => !b.textContent.startsWith("border")));
    cells.filter((cell) => !cell.hasChildNodes()).forEach((cell) => cell.classList.add("empty"));
    return make("tr", { class: c.index === chosen ? "row chosen" : "row", "data-cascade": c.index, on: { click: () => choose(c.index, "table") } }, cells);
  }

  onChoice((index) => {
    for (const row of body.children) row.classList.toggle("chosen", Number(row.dataset.cascade) === index);
  });
  refresh();
}
