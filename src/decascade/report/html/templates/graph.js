// The two drawings: scrolled together, zoomed together, drawn only where they are looked at.

const NODE = { width: 176, height: 36, row: 58 };
const MARGIN = 12;
const PRINTED = 80; // rows up to which the drawing is readable on a sheet of paper

class Pane {
  constructor(holder, graph, side) {
    Object.assign(this, { holder, graph, side, drawnFrom: 0, drawnTo: -1, marked: new Set() });
    this.height = data.graphs.rows * NODE.row;
    this.layer = draw("g", { transform: `translate(0 ${NODE.row / 2})` });
    this.svg = draw("svg", { role: "img", "aria-label": `${graph.nodes.length} operations, ${side}` }, [this.layer]);
    this.byRow = [];
    for (const node of graph.nodes) (this.byRow[node.y] ||= []).push(node);
    this.edges = [...graph.edges].sort((a, b) => graph.nodes[a[0]].y - graph.nodes[b[0]].y);
    holder.append(this.svg);
    holder.addEventListener("scroll", () => this.refresh(), { passive: true });
  }

  scale(zoom) {
    this.zoom = zoom;
    this.svg.setAttribute("viewBox", `0 0 ${this.graph.width} ${this.height}`);
    this.svg.setAttribute("width", this.graph.width * zoom);
    this.svg.setAttribute("height", this.height * zoom);
    this.refresh(true);
  }

  refresh(force, everything) {
    const row = NODE.row * this.zoom;
    const first = everything ? 0 : Math.floor(this.holder.scrollTop / row);
    const last = everything ? data.graphs.rows : Math.ceil((this.holder.scrollTop + this.holder.clientHeight) / row);
    if (!force && first >= this.drawnFrom && last <= this.drawnTo) return;
    this.drawnFrom = Math.max(0, first - MARGIN);
    this.drawnTo = last + MARGIN;
    const parts = [];
    for (const edge of this.edges) {
      const [u, v] = [this.graph.nodes[edge[0]], this.graph.nodes[edge[1]]];
      if (u.y <= this.drawnTo && v.y >= this.drawnFrom) parts.push(this.edge(u, v, edge[2]));
    }
    for (let y = this.drawnFrom; y <= this.drawnTo; y++) for (const node of this.byRow[y] || []) parts.push(this.node(node));
    this.layer.replaceChildren(...parts);
  }

  edge(u, v, x) {
    const [top, bottom] = [u.y * NODE.row + NODE.height / 2, v.y * NODE.row - NODE.height / 2];
    const gap = NODE.row - NODE.height;
    const curve = (x1, y1, x2, y2) => (x1 === x2 ? `L${x2} ${y2}` : `C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}`);
    const path = x === null
      ? `M${u.x} ${top}${curve(u.x, top, v.x, bottom)}`
      : `M${u.x} ${top}${curve(u.x, top, x, top + gap)}L${x} ${bottom - gap}${curve(x, bottom - gap, v.x, bottom)}`;
    const inside = this.marked.has(u) && this.marked.has(v);
    return draw("path", { d: path, class: inside ? "edge chosen" : "edge" });
  }

  node(node) {
    const corner = { x: node.x - NODE.width / 2, y: node.y * NODE.row - NODE.height / 2 };
    const label = [draw("text", { x: corner.x + 9, y: corner.y + 15, text: clip(node.kind.length > 25 ? node.kind.replace("convolution", "conv") : node.kind, 25) })];
    label.push(draw("text", { class: "sub", x: corner.x + 9, y: corner.y + 29, text: clip(nameOf(node), 25, true) }));
    return draw("g", {
      class: `node ${moodOf(node, this.side)}${this.marked.has(node) ? " chosen" : ""}`,
      "data-node": node.index,
      on: { click: () => pick(node, this.side), ...hinted(tellNode(node)) },
    }, [draw("rect", { ...corner, width: NODE.width, height: NODE.height, rx: 7 }), ...label]);
  }

  show(nodes) {
    if (!nodes.length) return;
    const rows = nodes.map((n) => n.y);
    const middle = ((Math.min(...rows) + Math.max(...rows)) / 2 + 0.5) * NODE.row * this.zoom;
    const tall = (Math.max(...rows) - Math.min(...rows) + 1) * NODE.row * this.zoom > this.holder.clientHeight;
    const top = tall ? Math.min(...rows) * NODE.row * this.zoom : middle - this.holder.clientHeight / 2;
    const across = (nodes.reduce((sum, n) => sum + n.x, 0) / nodes.length) * this.zoom - this.holder.clientWidth / 2;
    this.holder.scrollTo({ top, left: across });
  }
}

const clip = (text, length, tail) =>
  text.length <= length ? text : tail ? `…${text.slice(1 - length)}` : `${text.slice(0, length - 1)}…`;
const nameOf = (node) => (node.layers.length ? node.layers[node.layers.length - 1] : node.name);
const tellNode = (node) =>
  `${node.kind}\n${node.layers.join(", ") || node.name}\nout: ${shapeText(node.shape)}` +
  (node.cost ? `\n${quantity(node.cost)} ${data.graphs.unit}` : "") + (node.parameters ? `\n${quantity(node.parameters)} parameters` : "");

function moodOf(node, side) {
  if (node.kind === "input" || node.kind === "output") return "end";
  const rows = node.cascades.map((i) => cascades[i]);
  if (rows.some((c) => c.decision === "merged")) return side === "before" ? "merged" : "made";
  return rows.length ? "left" : "other";
}

function pick(node, side) {
  const merged = node.cascades.find((i) => cascades[i].decision === "merged");
  const index = merged === undefined ? node.cascades[0] : merged;
  if (index === undefined) {
    choose(null, "graph");
    byId("detail").replaceChildren(make("h3", { text: node.kind }), make("p", { class: "names", text: node.layers.join(", ") || node.name }),
      nodeTable(side, [node]), make("p", { class: "hint", text: "It belongs to no cascade." }));
  } else choose(index, "graph");
}

const members = (graph, index) => graph.nodes.filter((n) => n.cascades.includes(index));

// A cascade that was left as a whole may have parts that were merged, and what a merge made may have been replaced in turn:
// what stands for those belongs to it as well.
function versionsOf(index) {
  const old = members(before, index);
  const parts = new Set(old.flatMap((n) => n.cascades).filter((i) => cascades[i].decision === "merged"));
  const made = (rows) => after.nodes.filter((n) => n.cascades.some((i) => rows.has(i)));
  const own = cascades[index].decision === "merged" ? made(new Set([index])) : [];
  return { old, new: own.length ? own : made(new Set([index, ...parts])) };
}

function nodeTable(title, nodes) {
  const row = (n) => make("tr", {}, [
    make("td", { text: n.kind, title: n.name }), make("td", { text: shapeText(n.shape && n.shape.slice(1)) }),
    make("td", { class: "number", text: quantity(n.cost) }),
  ]);
  const head = ["operation", "out", data.graphs.unit].map((text, i) => make("th", { text, scope: "col", class: i === 2 ? "number" : null }));
  const shown = nodes.slice(0, 24).map(row);
  if (nodes.length > 24) shown.push(make("tr", {}, [make("td", { colspan: 3, text: `… ${nodes.length - 24} more` })]));
  return make("table", {}, [make("caption", { text: title, hidden: "" }), make("thead", {}, [make("tr", {}, head)]), make("tbody", {}, shown)]);
}

function detail(index) {
  if (index === null) return;
  const c = cascades[index], versions = before ? versionsOf(index) : null;
  const parts = [
    make("h3", { text: `Cascade ${index + 1} of ${cascades.length}` }),
    make("p", { class: "names", text: c.layers.length > 12 ? chain(c.layers) : c.layers.join(" → ") }),
    make("p", {}, badges(c)),
    make("p", { text: c.reason }),
    make("p", { text: `${quantity(c.before)} → ${c.after === null ? "?" : quantity(c.after)} ${data.unit} ${c.after === null ? "" : `(${change(c.before, c.after)})`}` }),
  ];
  if (c.error) parts.push(make("p", { text: `Error ${small(c.error.maxAbs)} at most, ${small(c.error.maxRel)} of the largest value; rounding can explain ${small(c.error.allowed)}; ${c.error.samples} samples.` }));
  if (versions) {
    parts.push(make("h3", { text: "Before" }), nodeTable("Before", versions.old));
    if (c.decision === "merged") parts.push(make("h3", { text: "After" }), nodeTable("After", versions.new));
  }
  if (c.map) parts.push(make("h3", { text: "Error over the picture" }), picture(c));
  byId("detail").replaceChildren(...parts);
}

const badges = (c) => [
  make("span", { class: `badge ${c.decision}`, text: c.decision === "left" ? "left alone" : "replaced" }),
  ...(c.decision === "left" || !c.tier ? [] : [make("span", { class: "badge", text: c.tier })]),
  ...(c.border ? [make("span", { class: "badge", text: `border: ${BORDERS[c.border]}` })] : []),
];

function startGraph() {
  const graphs = document.querySelector(".graphs");
  const panes = [new Pane(byId("before"), before, "before"), new Pane(byId("after"), after, "after")];
  let zoom = 1;
  const setZoom = (value, at) => {
    const next = Math.min(2.5, Math.max(0.02, value));
    const middles = panes.map((p) => [p.holder.scrollTop + (at ?? p.holder.clientHeight / 2), p.holder.scrollLeft + p.holder.clientWidth / 2]);
    panes.forEach((pane, i) => {
      pane.scale(next);
      pane.holder.scrollTop = (middles[i][0] * next) / zoom - (at ?? pane.holder.clientHeight / 2);
      pane.holder.scrollLeft = (middles[i][1] * next) / zoom - pane.holder.clientWidth / 2;
      pane.refresh(true);
    });
    zoom = next;
  };
  const widest = Math.max(before.width, after.width);
  const visible = () => panes.find((p) => p.holder.clientWidth) || panes[0];
  const fit = () => setZoom(Math.min(1.2, (visible().holder.clientWidth - 8) / widest, (visible().holder.clientHeight - 8) / panes[0].height));
  const both = (act) => panes.forEach(act);
  panes.forEach((pane, i) => {
    const other = panes[1 - i];
    pane.holder.addEventListener("scroll", () => {
      if (Math.abs(other.holder.scrollTop - pane.holder.scrollTop) > 1) other.holder.scrollTop = pane.holder.scrollTop;
    }, { passive: true });
    pane.holder.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      setZoom(zoom * Math.exp(-event.deltaY / 300), event.clientY - pane.holder.getBoundingClientRect().top);
    }, { passive: false });
    draggable(pane.holder);
  });
  byId("larger").addEventListener("click", () => setZoom(zoom * 1.3));
  byId("smaller").addEventListener("click", () => setZoom(zoom / 1.3));
  byId("fit").addEventListener("click", fit);
  const turn = (by) => choose(chosen === null ? (by > 0 ? 0 : cascades.length - 1) : (chosen + by + cascades.length) % cascades.length, "step");
  for (const [id, by] of [["previous", -1], ["next", 1]]) {
    byId(id).addEventListener("click", () => turn(by));
    byId(id).disabled = !cascades.length;
  }
  const side = (name) => {
    graphs.dataset.side = name;
    for (const which of ["before", "after"]) byId(`show-${which}`).setAttribute("aria-pressed", which === name);
    both((pane) => pane.refresh(true));
    if (chosen !== null) reveal(chosen);
  };
  const reveal = (index) => {
    const versions = versionsOf(index);
    if (zoom < 0.5) setZoom(Math.min(1, (visible().holder.clientWidth - 8) / Math.min(widest, 400)));
    panes[0].show(versions.old);
    panes[1].show(versions.new.length ? versions.new : versions.old);
  };
  for (const which of ["before", "after"]) byId(`show-${which}`).addEventListener("click", () => side(which));
  onChoice((index, origin) => {
    byId("which").textContent = index === null ? "no cascade chosen" : `cascade ${index + 1} of ${cascades.length}`;
    detail(index);
    if (index !== null && origin !== "graph") reveal(index);
    const versions = index === null ? { old: [], new: [] } : versionsOf(index);
    panes[0].marked = new Set(versions.old);
    panes[1].marked = new Set(versions.new);
    both((pane) => pane.refresh(true));
  });
  side("before");
  setZoom(Math.min(1, Math.max(0.75, (visible().holder.clientWidth - 8) / widest)));
  both((pane) => (pane.holder.scrollTop = 0));
  both((pane) => (pane.holder.scrollLeft = 0));
  addEventListener("resize", () => both((pane) => pane.refresh(true)));
  graphs.classList.toggle("long", data.graphs.rows > PRINTED);
  addEventListener("beforeprint", () => both((pane) => pane.refresh(true, true)));
}

function draggable(holder) {
  let from = null;
  holder.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) from = { x: event.clientX + holder.scrollLeft, y: event.clientY + holder.scrollTop };
  });
  holder.addEventListener("pointermove", (event) => {
    if (!from || !(event.buttons & 1)) return (from = null), holder.classList.remove("dragging");
    holder.classList.add("dragging");
    holder.scrollTo({ left: from.x - event.clientX, top: from.y - event.clientY, behavior: "instant" });
  });
  for (const end of ["pointerup", "pointerleave"]) holder.addEventListener(end, () => { from = null; holder.classList.remove("dragging"); });
}
