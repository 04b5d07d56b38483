// Small drawings: axes, lines, points, the columns of costs, the maps of errors.

const tens = (value) => (value >= 1e4 || value < 1e-2 ? value.toExponential(0).replace("e+", "e") : `${Number(value.toPrecision(2))}`);

function scaleOf(values, log, from, to) {
  const kept = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0));
  let [low, high] = kept.length ? [Math.min(...kept), Math.max(...kept)] : [log ? 0.1 : 0, 1];
  if (log) {
    const [a, b] = [Math.log10(low), Math.log10(high)];
    const pad = Math.max((b - a) * 0.06, 0.02);
    [low, high] = [a - pad, b + pad];
  } else {
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [low === 0 ? 0 : low - pad, high + pad];
  }
  const place = (v) => from + ((to - from) * ((log ? Math.log10(v) : v) - low)) / (high - low);
  return { place, ticks: log ? logTicks(low, high) : ticks(low, high), fits: (v) => v !== null && Number.isFinite(v) && (!log || v > 0) };
}
function ticks(low, high) {
  const raw = (high - low) / 5, ten = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= raw);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(Number(v.toPrecision(12)));
  return found;
}
function logTicks(low, high) {
  const found = [], multiples = high - low > 2.2 ? [1] : high - low > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  for (let e = Math.floor(low); e <= high; e++) for (const m of multiples) {
    const at = e + Math.log10(m);
    if (at >= low && at <= high) found.push(m * 10 ** e);
  }
  const every = Math.ceil(found.length / 7);
  return found.filter((_, i) => i % every === 0);
}

// series: [{name, points: [[x, y, words]], line, dots, dashed}]
function plot({ title, xName, yName, series, xLog, yLog }) {
  const [width, height, left, right, top, bottom] = [460, 280, 58, 14, 24, 40];
  const all = series.flatMap((s) => s.points);
  const x = scaleOf(all.map((p) => p[0]), xLog, left, width - right), y = scaleOf(all.map((p) => p[1]), yLog, height - bottom, top);
  const parts = [];
  for (const t of y.ticks) parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: y.place(t), y2: y.place(t) }),
    draw("text", { class: "tick", x: left - 6, y: y.place(t) + 4, "text-anchor": "end", text: yLog ? tens(t) : quantity(t) }));
  for (const t of x.ticks) parts.push(draw("text", { class: "tick", x: x.place(t), y: height - bottom + 16, "text-anchor": "middle", text: xLog && t < 1 ? tens(t) : quantity(t) }));
  parts.push(draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  parts.push(draw("text", { class: "tick", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", text: xName }));
  parts.push(draw("text", { class: "tick", x: 4, y: 12, text: yName })); // lying, above the axis: long names fit
  series.forEach((s, i) => {
    const colour = (s.colour ?? i) % 6, points = s.points.filter((p) => x.fits(p[0]) && y.fits(p[1]));
    if (s.line !== false && points.length > 1) parts.push(draw("path", {
      class: `line s${colour}${s.dashed ? " dashed" : ""}`, d: points.map((p, j) => `${j ? "L" : "M"}${x.place(p[0]).toFixed(1)} ${y.place(p[1]).toFixed(1)}`).join(""),
    }));
    if (s.dots !== false) for (const p of points.length <= 400 ? points : []) parts.push(draw("circle", {
      class: `f${colour}`, cx: x.place(p[0]), cy: y.place(p[1]), r: p[3] || 3.2, on: hinted(p[2] || `${s.name}\n${xName} ${small(p[0])}\n${yName} ${small(p[1])}`),
    }));
  });
  const named = series.filter((s) => s.name);
  const keys = series.length > 1 ? [make("p", { class: "hint" }, named.map((s) => make("span", { class: "legend-key" }, [
    make("span", { class: `key b${(s.colour ?? series.indexOf(s)) % 6}` }), make("span", { class: "names", text: s.name })])))] : [];
  return make("figure", {}, [make("figcaption", { text: title }),
    draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${yName} against ${xName}` }, parts), ...keys]);
}

// Columns by place in the network: before above, after below, on one scale.
function costColumns(field, unit, width) {
  const [height, left, top] = [300, 62, 8], middle = 150, tall = middle - top - 10;
  const rows = new Map();
  for (const [graph, key] of [[before, "was"], [after, "is"]]) for (const n of graph.nodes) if (n[field] > 0) {
    const row = rows.get(n.y) || { was: 0, is: 0, names: { was: [], is: [] }, cascades: [], made: false };
    row[key] += n[field];
    row.names[key].push(nameOf(n));
    row.cascades.push(...n.cascades);
    row.made ||= key === "is" && n.cascades.some((i) => cascades[i].decision === "merged");
    rows.set(n.y, row);
  }
  const found = [...rows].sort((a, b) => a[0] - b[0]).map(([, row]) => row);
  if (!found.length) return make("p", { class: "hint", text: "Nothing costs anything here." });
  const most = Math.max(...found.map((r) => Math.max(r.was, r.is))), each = (width - left) / found.length;
  const bar = Math.max(0.6, Math.min(each * 0.8, 46)), parts = [];
  for (const t of ticks(0, most).filter((v) => v > 0)) for (const sign of [-1, 1]) {
    const y = middle + (sign * t * tall) / most;
    if (Math.abs(y - 16) < 14 || Math.abs(y - height + 14) < 14) continue; // there the words before and after stand
    parts.push(draw("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }), draw("text", { class: "tick", x: left - 8, y: y + 4, "text-anchor": "end", text: quantity(t) }));
  }
  parts.push(draw("text", { class: "label", x: 0, y: 20, text: "before" }), draw("text", { class: "label", x: 0, y: height - 10, text: "after" }));
  found.forEach((r, i) => {
    const x = left + each * (i + 0.5) - bar / 2, [up, down] = [(r.was * tall) / most, (r.is * tall) / most];
    if (up) parts.push(draw("rect", { class: "bar-before", x, width: bar, y: middle - up, height: up }));
    if (down) parts.push(draw("rect", { class: r.made ? "bar-after merged" : "bar-after", x, width: bar, y: middle, height: down }));
    const line = (word, names, value) => (names.length ? `${word}: ${clip(names.join(", "), 90)}, ${quantity(value)} ${unit}` : "");
    const index = r.cascades.find((j) => cascades[j].decision === "merged") ?? r.cascades[0];
    parts.push(draw("rect", {
      class: "column", x: left + each * i, width: each, y: top, height: height - 2 * top, "data-cascades": r.cascades.join(" "),
      on: { ...hinted([line("before", r.names.was, r.was), line("after", r.names.is, r.is)].filter(Boolean).join("\n")), click: () => index !== undefined && choose(index, "costs") },
    }));
  });
  parts.push(draw("line", { class: "axis", x1: left, x2: width, y1: middle, y2: middle }));
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${unit} of every layer, before and after` }, parts);
}

// Blue to yellow, dark to light: the order survives in grey.
const COLOURS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function colourOf(level) {
  if (!level) return [24, 20, 40];
  const at = ((level - 1) / 30) * (COLOURS.length - 1), i = Math.min(COLOURS.length - 2, Math.floor(at));
  return COLOURS[i].map((v, k) => Math.round(v + (COLOURS[i + 1][k] - v) * (at - i)));
}
function paint(rows, width, height) {
  const canvas = make("canvas", { width: rows[0].length, height: rows.length }), context = canvas.getContext("2d");
  const image = context.createImageData(rows[0].length, rows.length);
  rows.forEach((row, y) => [...row].forEach((level, x) => image.data.set([...colourOf(level), 255], 4 * (y * row.length + x))));
  context.putImageData(image, 0, 0);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  return canvas;
}
function picture(c) {
  const rows = c.map.rows.map((row) => [...row].map((digit) => parseInt(digit, 36)));
  const flat = rows.length === 1, side = 96;
  const canvas = paint(rows, side, flat ? 24 : Math.round(side * Math.min(2, Math.max(0.4, c.map.size.at(-2) / c.map.size.at(-1)))));
  fill(canvas, { role: "img", "aria-label": `errors of ${chain(c.layers)}` });
  const edge = c.map.edge, word = (i) => (i === 4 ? "further in" : i ? `${i} from the edge` : "at the edge");
  const rings = edge.map((value, i) => make("tr", {}, [make("td", { text: word(i) }), make("td", { text: small(value) })]));
  return make("div", { class: "picture" }, [canvas, make("table", { class: "rings" }, [make("tbody", {}, rings)])]);
}
