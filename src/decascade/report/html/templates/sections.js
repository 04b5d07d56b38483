// The sections that only some reports have.

const MAPS = 24;

function startCosts() {
  const options = [["cost", data.graphs.unit], ["parameters", "parameters"]];
  byId("measure").append(...options.map(([value, text]) => make("option", { value, text })));
  const refresh = () => {
    const [field, unit] = options.find(([value]) => value === byId("measure").value);
    byId("cost-bars").replaceChildren(costColumns(field, unit, Math.max(320, byId("cost-bars").clientWidth)));
    mark(chosen);
  };
  const mark = (index) => {
    for (const column of document.querySelectorAll("#cost-bars .column"))
      column.classList.toggle("chosen", index !== null && column.dataset.cascades.split(" ").includes(String(index)));
  };
  byId("measure").addEventListener("change", refresh);
  addEventListener("resize", refresh);
  onChoice(mark);
  refresh();
}

function startMaps() {
  const mapped = cascades.filter((c) => c.map);
  if (!mapped.length) return;
  const share = (c) => (c.error.allowed ? c.error.maxAbs / c.error.allowed : 0);
  const sorted = [...mapped].sort((a, b) => share(b) - share(a));
  byId("errors").hidden = false;
  const scale = paint([Array.from({ length: 31 }, (_, i) => i + 1)], 160, 10);
  byId("maps").before(make("p", { class: "scale" }, [make("span", { text: "1/10,000" }), scale, make("span", { text: "all of what rounding can explain; the worst first" })]));
  const show = (count) => {
    byId("maps").replaceChildren(...sorted.slice(0, count).map((c) => make("button", { class: "map", type: "button", on: { click: () => { choose(c.index, "maps"); byId("network")?.scrollIntoView(); } } }, [
      make("span", { class: "names", text: chain(c.layers) }), picture(c),
    ])));
    byId("more-maps").hidden = sorted.length <= count;
    byId("more-maps").textContent = `Show all ${sorted.length}`;
  };
  byId("more-maps").addEventListener("click", () => show(Infinity));
  show(MAPS);
}

const KINDS = {
  l: ["linear", "linear on all of it"], c: ["constant", "constant on all of it"], m: ["mixed", "linear, not alike everywhere"],
  o: ["open", "not decided"], w: ["witnessed", "not linear: an input shows it"],
};

function startActivations() {
  if (!data.activations.length) return;
  byId("activations").hidden = false;
  const used = Object.keys(KINDS).filter((k) => data.activations.some((a) => a[3].includes(k)));
  const legend = make("ul", { class: "legend" }, used.map((k) => make("li", {}, [make("span", { class: `swatch k-${KINDS[k][0]}` }), make("span", { text: KINDS[k][1] })])));
  byId("activation-rows").append(legend, ...data.activations.map(([layers, kind, tier, letters, bounds]) => {
    const counts = Object.keys(KINDS).map((k) => [k, letters.split(k).length - 1]).filter(([, n]) => n);
    const told = counts.map(([k, n]) => `${n} ${KINDS[k][0]}`).join(", ");
    const bar = draw("svg", { viewBox: `0 0 ${letters.length} 1`, preserveAspectRatio: "none", role: "img", "aria-label": told },
      runs(letters).map(([k, from, length]) => draw("rect", { class: `k-${KINDS[k][0]}`, x: from, y: 0, width: length, height: 1, on: hinted(`channels ${from} to ${from + length - 1}: ${KINDS[k][1]}`) })));
    const parts = [make("span", { class: "names", text: `${layers.join(", ")} (${kind})` }), bar, make("span", { text: `${tier === "observed" ? "seen: " : ""}${told} of ${letters.length} channels` })];
    if (bounds) parts.push(make("details", { on: { toggle: (event) => unfold(event.target, letters, bounds) } }, [make("summary", { text: "bounds per channel" })]));
    return make("div", { class: "activation" }, parts);
  }));
}

function runs(letters) {
  const found = [];
  for (let i = 0; i < letters.length; i++) {
    if (found.length && found.at(-1)[0] === letters[i]) found.at(-1)[2]++;
    else found.push([letters[i], i, 1]);
  }
  return found;
}

// The interval of every channel's argument, drawn when it is first looked at.
function unfold(details, letters, [lows, highs]) {
  if (!details.open || details.querySelector("svg")) return;
  const finite = [...lows, ...highs].filter((v) => v !== null), reach = Math.max(...finite.map(Math.abs), 1e-9);
  const bend = (v) => Math.sign(v) * Math.sqrt(Math.abs(v) / reach); // the root shows both the near and the far
  const end = (v, open) => (v === null ? open : bend(v)), n = letters.length;
  const bars = [...letters].map((k, i) => {
    const [lo, hi] = [end(lows[i], -1), end(highs[i], 1)];
    return draw("rect", { class: `k-${KINDS[k][0]}`, x: i + 0.15, width: 0.7, y: 1 - hi, height: Math.max(hi - lo, 0.01), on: hinted(`channel ${i}: ${small(lows[i]) || "−∞"} to ${small(highs[i]) || "∞"}\n${KINDS[k][1]}`) });
  });
  const zero = draw("line", { class: "axis", x1: 0, x2: n, y1: 1, y2: 1, "vector-effect": "non-scaling-stroke" });
  details.append(draw("svg", { viewBox: `0 0 ${n} 2`, preserveAspectRatio: "none", role: "img", "aria-label": "bounds of every channel" }, [...bars, zero]),
    make("p", { text: `The interval of each channel's argument, root scale, up to ±${small(reach)}; the line is zero.` }));
}

function startCompression() {
  const found = data.compression;
  if (!found) return;
  byId("compression").hidden = false;
  const parts = [];
  if (found.students.length) parts.push(studentsTable(found.students));
  const curves = found.students.filter((s) => s.widths.length > 1);
  if (curves.length) parts.push(widthPlot(curves));
  if (found.front.length) parts.push(frontPlot(found));
  const families = new Map();
  for (const curve of found.training.filter((c) => c.x.length > 1)) families.set(curve.unit, [...(families.get(curve.unit) || []), curve]);
  for (const [unit, some] of families) parts.push(plot({
    title: `Training${unit ? `: ${unit}` : ""}`, xName: some[0].x_unit, yName: unit || "value", yLog: false,
    series: some.map((c) => ({ name: c.name, dots: c.x.length <= 40, points: c.x.map((x, i) => [x, c.y[i]]) })),
  }));
  byId("compression-parts").append(...parts);
}

function studentsTable(students) {
  const names = ["Segment", "Student", "Fit error", "Sensitivity", "Before", "After", "Change"];
  const head = names.map((text, i) => make("th", { text, scope: "col", class: i > 1 ? "number" : null }));
  const rows = students.map((s) => make("tr", {}, [
    make("td", { class: "names", text: chain(s.layers) }),
    make("td", {}, [make("span", { text: `${s.student} ` }), ...(s.chosen ? [make("span", { class: "badge merged", text: "chosen" })] : [])]),
    ...[small(s.fit_error), small(s.sensitivity), quantity(s.cost_before), quantity(s.cost_after), change(s.cost_before, s.cost_after)].map((text) => make("td", { class: "number", text })),
  ]));
  const chosenOnes = students.filter((s) => s.chosen).length;
  const table = (some) => make("table", {}, [make("thead", {}, [make("tr", {}, head.map((cell) => cell.cloneNode(true)))]), make("tbody", {}, some)]);
  const taken = rows.filter((_, i) => students[i].chosen), others = rows.filter((_, i) => !students[i].chosen);
  const few = !taken.length || others.length <= 12;
  return make("div", { class: "wide scroll", tabindex: 0, role: "group", "aria-label": "Students" }, [
    make("p", { class: "hint", text: `${students.length} ${students.length === 1 ? "student" : "students"} considered, ${chosenOnes} chosen; costs in ${data.unit}. Sensitivity: how far the model's output moves with only that student in it.` }),
    table(few ? rows : taken),
    ...(few ? [] : [make("details", {}, [make("summary", { text: `the ${others.length} others` }), table(others)])])]);
}

function widthPlot(students) {
  const series = students.slice(0, 6).map((s) => ({ name: chain(s.layers), points: s.widths.map((w) => [w.width, w.held_out ?? w.error, `${s.student}\nwidth ${w.width}\nrelative error ${small(w.held_out ?? w.error)}`]) }));
  const first = students[0].widths[0], last = students[0].widths.at(-1), start = first.held_out ?? first.error;
  series.push({ name: "N^(−1/2), a line to compare with", dashed: true, dots: false, colour: 5, points: [first.width, last.width].map((n) => [n, start * Math.sqrt(first.width / n)]) });
  return plot({ title: "Error of a hidden layer against its width", xName: "width N", yName: "relative error", xLog: true, yLog: true, series });
}

function frontPlot(found) {
  const points = [...found.front].sort((a, b) => a.cost - b.cost).map((p) => [p.cost, p.loss, `${p.words ? `${p.words}\n` : ""}${quantity(p.cost)} ${data.unit}\n${small(p.loss)} ${found.loss_unit}`]);
  const taken = found.front.filter((p) => p.chosen).map((p) => [p.cost, p.loss, `carried out${p.words ? `: ${p.words}` : ""}\n${quantity(p.cost)} ${data.unit}\n${small(p.loss)} ${found.loss_unit}`, 6]);
  return plot({ title: "Plans: what each costs and loses", xName: data.unit, yName: found.loss_unit, series: [{ name: "plans", points }, { name: "carried out", points: taken, line: false }] });
}

function startMeasures() {
  if (!data.measures.length) return;
  byId("measures").hidden = false;
  const head = ["", "Before", "After", "", "How"].map((text, i) => make("th", { text, scope: "col", class: i === 1 || i === 2 ? "number" : null }));
  const groups = [...new Set(data.measures.map((m) => m.group))];
  const told = (v) => (Number.isInteger(v) ? v.toLocaleString("en") : Math.abs(v) >= 1e4 ? quantity(v) : Number(v.toPrecision(4)));
  const number = (v, unit) => (v === null ? "" : `${told(v)}${unit ? ` ${unit}` : ""}`);
  const row = (m) => {
    const known = m.before !== null && m.after !== null, better = known && m.before !== m.after ? (m.after < m.before) === (m.better === "lower") : null;
    const words = !known ? "" : m.better === "higher" ? `${m.after >= m.before ? "+" : "−"}${Number(Math.abs(m.after - m.before).toPrecision(3))}` : change(m.before, m.after);
    return make("tr", {}, [make("th", { scope: "row", text: m.name }), make("td", { class: "number", text: number(m.before, m.unit) }), make("td", { class: "number", text: number(m.after, m.unit) }),
      make("td", { class: better === null ? "" : better ? "less" : "dearer", text: words }), make("td", { text: m.note })]);
  };
  byId("measure-table").append(make("thead", {}, [make("tr", {}, head)]), ...groups.map((group) => make("tbody", {}, [
    make("tr", {}, [make("th", { colspan: 5, scope: "rowgroup", text: group })]), ...data.measures.filter((m) => m.group === group).map(row)])));
}
