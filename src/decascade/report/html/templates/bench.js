// What single layers cost, measured: bars per model, the dearest first, all of a target on one scale.

const LAYERS = 12;

function startLayers() {
  if (!data.layers.length) return;
  byId("layers").hidden = false;
  byId("layer-parts").append(...data.layers.flatMap(({ target, unit, models }) => {
    const most = Math.max(...models.flatMap(([, layers]) => layers.map((layer) => layer[2])), 1e-9);
    return models.filter(([, layers]) => layers.length).map(([name, layers], i) => layerBars(`${name}, ${target}`, unit, layers, most, i));
  }));
}

function layerBars(title, unit, layers, most, colour) {
  const sorted = [...layers].sort((a, b) => b[2] - a[2]), total = layers.reduce((sum, layer) => sum + layer[2], 0);
  const row = ([name, what, cost], i) => {
    const bar = make("span", { class: `fill b${colour}` });
    bar.style.width = `${(100 * cost) / most}%`;
    const share = total ? `, ${Math.round((100 * cost) / total)} % of its layers` : "";
    return make("div", { class: "layer", hidden: i < LAYERS ? null : "", on: hinted(`${what}\n${quantity(cost)} ${unit}${share}`) }, [
      make("span", { class: "names", text: name }), bar, make("span", { class: "number", text: quantity(Number(cost.toPrecision(4))) })]);
  };
  const rows = sorted.map(row), figure = make("figure", {}, [make("figcaption", { text: `${title} (${unit})` }), ...rows]);
  if (rows.length > LAYERS) figure.append(make("button", { type: "button", text: `Show all ${rows.length}`, on: { click: (event) => {
    for (const one of rows) one.hidden = false;
    event.target.remove();
  } } }));
  return figure;
}
