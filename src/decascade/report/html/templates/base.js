// The data in objects, elements, numbers in words, the tooltip, and which cascade is chosen.

const data = JSON.parse(document.getElementById("data").textContent);
const word = (place) => data.words[place];
const byId = (id) => document.getElementById(id);

// Field order is that of html_data.py.
const cascades = data.cascades.map((row, index) => {
  const [layers, ...told] = [row[0].map(word), ...row.slice(1, 5).map(word)], [decision, tier, reason, border] = told;
  const [before, after, parametersBefore, parametersAfter, error, map] = row.slice(5);
  const [maxAbs, maxRel, allowed, samples] = error || [];
  return {
    index, layers, decision, tier, reason: reason.replaceAll("->", "→"), border, before, after, parametersBefore, parametersAfter,
    error: error ? { maxAbs, maxRel, allowed, samples } : null,
    map: map ? { rows: map[0], size: map[1], edge: map[2] } : null,
  };
});

function graphOf(drawn, old) {
  const nodes = drawn.nodes.map(([told, rows, y, x], index) => {
    if (typeof told === "number") return { ...old[told], index, cascades: rows, y, x };
    const [place, kind, layers, shape, cost, parameters] = told, name = word(place);
    return {
      index, name, kind: word(kind), layers: layers === 0 ? [name] : layers.map(word), shape: word(shape), cost, parameters,
      cascades: rows, y, x,
    };
  });
  return { nodes, edges: drawn.edges, width: drawn.width };
}
const before = data.graphs ? graphOf(data.graphs.before, []) : null;
const after = data.graphs ? graphOf(data.graphs.after, before.nodes) : null;

const SVG = "http://www.w3.org/2000/svg";
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...(children || []));
  return element;
}
// Text from the report is only ever set as text.
const make = (tag, attributes, children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, children) => fill(document.createElementNS(SVG, tag), attributes, children);

function quantity(value) {
  if (value === null || value === undefined) return "";
  for (const [size, by, sign] of [[1e9, 1e9, " G"], [1e6, 1e6, " M"], [1e4, 1e3, " k"]])
    if (Math.abs(value) >= size) return `${Number((value / by).toPrecision(3))}${sign}`;
  return value.toLocaleString("en", { maximumFractionDigits: 2 });
}
function change(was, is) {
  if (is === null || is === undefined) return "";
  if (is === was) return "the same";
  if (!was || !is) return "";
  if (is / was > 0.99 && is / was < 1.01) return `${Math.abs((is / was - 1) * 100).toFixed(2)} % ${is < was ? "less" : "more"}`;
  return is < was ? `${Number((was / is).toPrecision(3))} × less` : `${Number((is / was).toPrecision(3))} × more`;
}
function small(value) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "0";
  return Math.abs(value) >= 0.01 && Math.abs(value) < 1e4 ? `${Number(value.toPrecision(3))}` : value.toExponential(1);
}
const shapeText = (shape) => (shape ? shape.join(" × ") : "unknown");
function chain(layers) {
  const shown = layers.length <= 4 ? layers : [...layers.slice(0, 2), `… ${layers.length - 3} more …`, layers[layers.length - 1]];
  return shown.join(" → ");
}
const BORDERS = { free: "free", bias: "bias corrected", ring: "ring corrected", "": "" };

let tip = null;
function hint(event, text) {
  if (!tip) document.body.append((tip = make("div", { id: "tip", role: "tooltip" })));
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - width - 8))}px`;
  tip.style.top = `${event.clientY + 16 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 16}px`;
}
function unhint() {
  if (tip) tip.hidden = true;
}
const hinted = (text) => ({ pointermove: (event) => hint(event, text), pointerleave: unhint });

// One cascade is chosen at a time; every part of the page that shows it listens.
let chosen = null;
const listeners = [];
const onChoice = (act) => listeners.push(act);
function choose(index, origin) {
  chosen = index;
  for (const act of listeners) act(chosen, origin);
}
