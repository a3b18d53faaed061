/* How the heat maps are drawn: layer, method, class and colours. */

import { choice, el } from "./dom.js";
import { classNames, images, layersOf, live } from "./schema.js";
import { setView, view } from "./state.js";

const select = (key, text, options, value, parse = String) => el("label", {}, text, el("select", {
  "data-control": key, onchange: (event) => setView({ [key]: parse(event.target.value) }),
}, options.map(([option, name]) =>
  el("option", { value: option, ...(String(option) === String(value) ? { selected: "" } : {}) }, name))));

/* Of a file, two layers; of the served network, all and every method. */
function layerControls(model, row) {
  const layers = layersOf(model, row);
  if (!live) {
    const earlier = layers.length > 1 ? [["earlier", layers[0].name]] : [];
    return [choice("depth", [...earlier, ["last", layers.at(-1).name]], view.depth, (depth) => setView({ depth }))];
  }
  const layerOptions = [...live.layers.slice(0, -1).map((name) => [name, name]), ["", live.layers.at(-1)]];
  const methodOptions = live.methods.map((name) => [name === live.method ? "" : name, name]);
  return [
    select("layer", "layer", layerOptions, view.layer),
    select("method", "method", methodOptions, view.method),
  ];
}

let isOpen = Boolean(live); // the settings; where the network can be asked, they are what one came for

export function controls({ model, layer, other, full }, row) {
  const label = images.label[row] ?? model.prediction[row];
  const classes = (live ? [...classNames.keys()] : model.classes[row]).filter((c) => c !== label);
  const grids = [["smooth", "smooth"], ["cells", `${layer.grid.join(" × ")} cells`]];
  const colours = [["meaning", "blue and orange"], ["viridis", "viridis"], ["magma", "magma"]];
  return el("details", { class: "settings", ...(isOpen ? { open: "" } : {}), ontoggle: (event) => { isOpen = event.target.open; } },
    el("summary", {}, "heat map settings"), el("div", { class: "controls" },
    layerControls(model, row),
    choice("grid", grids, view.grid, (grid) => setView({ grid })),
    select("class", "class", classes.map((c) => [c, classNames[c]]), other, Number),
    el("label", {}, "strength", el("input", {
      type: "range", min: 10, max: 100, step: 5, value: view.strength, "data-control": "strength",
      oninput: (event) => setView({ strength: Number(event.target.value) }),
    })),
    select("colours", "colours", colours, view.colours),
    el("label", {}, el("input", {
      type: "checkbox", "data-control": "scale", ...(view.scale === "same" ? { checked: "" } : {}),
      onchange: (event) => setView({ scale: event.target.checked ? "same" : "own" }),
    }), "same scale for all"),
    el("span", {}, `full colour = ${full.toFixed(2)} logits per cell`)));
}
