"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const { names, images, models } = facts;
const [first, second] = models;
const count = images.index.length; // more may follow: those that are asked for, where the page is served
const at = (id) => document.getElementById(id);

/* An element, from its tag, attributes and children; text is only ever text. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(made.style, value);
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 || share > 0.995 ? 1 : 0)} %`;
const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const whole = (number) => number.toLocaleString("en");
const is = (text) => el("b", { class: "is" }, text);
const said = (text) => el("b", { class: "said" }, text);
const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer;

/* What is looked at: all of it is in the address, so that a link shows the same. */
const START = {
  which: second ? "fixed" : "errors", label: null, prediction: null, verdict: "", sort: "confidence", find: "", image: null,
  depth: "last", layer: "", method: "", class: null,
  grid: "smooth", strength: 75, colours: "meaning", scale: "own",
};
const view = { ...START };
const NUMBERS = ["label", "prediction", "image", "class", "strength"];

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  Object.assign(view, START);
  for (const [key, value] of given) if (key in START) view[key] = NUMBERS.includes(key) ? Number(value) : value;
  const there = images.index.includes(view.image) || (facts.live && view.image >= 0 && view.image < facts.data.n);
  if (view.image !== null && !there) view.image = null;
}

function show(changes = {}) {
  Object.assign(view, changes);
  const given = Object.entries(view).filter(([key, value]) => value !== START[key] && value !== null);
  history.replaceState(null, "", `#${new URLSearchParams(given)}`);
  draw();
}

/* Pictures lie side by side on sheets. */
function place(pictures, number) {
  const inside = number % pictures.per;
  return { sheet: Math.floor(number / pictures.per), x: inside % pictures.columns, y: Math.floor(inside / pictures.columns) };
}
const sheetStyle = new CSSStyleSheet(); // a rule for each sheet, so that its data are in the page once
document.adoptedStyleSheets.push(sheetStyle);
const small = ({ size }) => Math.max(...size) <= 64;
const styled = new Map();
function styleOf(source) {
  if (!styled.has(source)) {
    styled.set(source, `sheet-${styled.size}`);
    sheetStyle.insertRule(`.${styled.get(source)}{background-image:url(${source})}`);
  }
  return styled.get(source);
}

function picture([pictures, number], alt) {
  const { sheet, x, y } = place(pictures, number);
  const rows = Math.ceil(Math.min(pictures.per, pictures.count - sheet * pictures.per) / pictures.columns);
  const style = {
    aspectRatio: `${pictures.size[1]} / ${pictures.size[0]}`,
    backgroundSize: `${100 * pictures.columns}% ${100 * rows}%`,
    backgroundPosition: `${pictures.columns > 1 ? (100 * x) / (pictures.columns - 1) : 0}% ${rows > 1 ? (100 * y) / (rows - 1) : 0}%`,
  };
  return el("span", { class: `picture ${styleOf(pictures.sheets[sheet])}${small(pictures) ? " sharp" : ""}`, role: "img", "aria-label": alt, style });
}

/* Each image that a model has wrong is one k. What a model says of it, of a class c: */
const column = (model, k, c) => model.classes[k].indexOf(c);
const probability = (model, k, c) => model.probability[k][column(model, k, c)];
const logit = (model, k, c) => model.logit[k][column(model, k, c)];
const isWrong = (model, k) => images.label[k] !== null && model.prediction[k] !== images.label[k];
const pictureOf = (k) => (k < count ? [facts.pictures, k] : [answers.get(k).pictures, 0]);

/* With two models an image is fixed, broken or wrong by both; the model that has it wrong is the one that is looked at. */
const WHICH = {
  errors: (k) => isWrong(first, k), fixed: (k) => isWrong(first, k) && !isWrong(second, k),
  broken: (k) => !isWrong(first, k) && isWrong(second, k), both: (k) => isWrong(first, k) && isWrong(second, k),
};
const wrongOne = (k) => (second && !isWrong(first, k) ? second : first);
const called = (k) => wrongOne(k).prediction[k];
const worth = {
  confidence: (k) => -probability(wrongOne(k), k, called(k)),
  margin: (k) => logit(wrongOne(k), k, images.label[k]) - logit(wrongOne(k), k, called(k)),
  loss: (k) => -wrongOne(k).loss[k], doubt: (k) => -(facts.verdicts?.doubt[k] ?? 0), index: (k) => images.index[k],
};

/* What is thought to be behind an error of the first model; "" for no verdict. */
const verdictOf = (k) => (k < count && isWrong(first, k) ? facts.verdicts?.of[k] ?? "" : "");

function chosen({ label, prediction, verdict, find } = view) {
  const sought = find.trim().toLowerCase(), wanted = WHICH[view.which] ?? WHICH.errors;
  const found = [];
  for (let k = 0; k < count; k++) {
    if (!wanted(k)) continue;
    if (label !== null && images.label[k] !== label) continue;
    if (prediction !== null && called(k) !== prediction) continue;
    if (verdict && verdictOf(k) !== (verdict === "none" ? "" : verdict)) continue;
    if (sought && String(images.index[k]) !== sought && !images.file[k].toLowerCase().includes(sought)) continue;
    found.push(k);
  }
  const value = worth[view.sort] ?? worth.confidence;
  return found.sort((a, b) => value(a) - value(b) || a - b);
}

/* The head, which does not change. */
function drawHead() {
  const { data } = facts;
  at("about").append(
    `${whole(first.parameters)} parameters, input ${first.input}; ${whole(data.n)} ${data.split} images of ` +
    `${data.size.replace("x", "×")}, ${names.length} classes` + (count ? `; maps by HiResCAM at ${first.layers.map((l) => l.name).join(" and ")}, in logits` : ""),
  );
  const figures = models.flatMap((model) => {
    const [low, high] = model.interval.map((share) => (100 * share).toFixed(2));
    return [
      [`${(100 * model.accuracy).toFixed(2)} %`, `${second ? model.name : "accuracy"} (${low} to ${high})`],
      [whole(model.errors), model.errors === 1 ? "error" : "errors"],
      ...(second ? [] : [[`${(100 * model.ece).toFixed(1)} %`, "calibration error"]]),
    ];
  });
  at("figures").append(...figures.map(([value, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  at("findings").append(...facts.findings.map((text) => el("li", {}, text)));
}

/* The matrix: with many classes, of those with the most errors. */
const inMatrix = (() => {
  const weight = new Array(names.length).fill(0);
  for (let k = 0; k < count; k++) { weight[images.label[k]]++; weight[called(k)]++; }
  const order = names.map((_, k) => k).sort((a, b) => weight[b] - weight[a] || a - b);
  return order.slice(0, 20).sort((a, b) => a - b);
})();

/* A cell of the matrix: so much orange on the paper, and on it black or white, whichever is read better. */
function onFill(share) {
  const [fill, paper] = ["--said-fill", "--paper"].map((name) => parts(colour(name)));
  const mixed = fill.map((value, k) => Math.round(value * share + paper[k] * (1 - share)));
  const [r, g, b] = mixed.map((value) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * r + 0.7152 * g + 0.0722 * b; // WCAG 2: white is read better below 0.179
  return { background: `rgb(${mixed})`, color: light > 0.179 ? "#000" : "#fff" };
}

function drawMatrix() {
  const cells = new Map();
  for (const k of chosen({ label: null, prediction: null, verdict: view.verdict, find: "" })) {
    const place = images.label[k] * names.length + called(k);
    cells.set(place, (cells.get(place) ?? 0) + 1);
  }
  const most = Math.max(1, ...cells.values());
  const pressed = (i, j) => view.label === i && view.prediction === j;
  const pick = (label, prediction) => () => show(pressed(label, prediction) ? { label: null, prediction: null } : { label, prediction });
  const button = (i, j, text, name, style = {}) =>
    el("button", { type: "button", onclick: pick(i, j), "aria-label": name, "aria-pressed": pressed(i, j), tabindex: "-1", style, title: name }, text);
  const many = (n) => `${whole(n)} ${n === 1 ? "error" : "errors"}`;
  const head = el("tr", {}, el("td", { class: "names" }), inMatrix.map((j) =>
    el("th", { scope: "col" }, button(null, j, names[j], `all called ${names[j]}`))));
  const rows = inMatrix.map((i) => el("tr", {},
    el("th", { scope: "row" }, button(i, null, names[i], `all labelled ${names[i]}`)),
    inMatrix.map((j) => {
      if (i === j) return el("td", {}, el("span", { title: `${names[i]}: ${whole(first.right[i])} right` }, String(first.right[i])));
      const n = cells.get(i * names.length + j);
      if (!n) return el("td", {});
      const style = onFill(0.08 + 0.74 * Math.sqrt(n / most));
      return el("td", {}, button(i, j, String(n), `${names[i]} called ${names[j]}: ${many(n)}`, style));
    })));
  const table = el("table", { class: `matrix${inMatrix.length > 12 ? " small" : ""}`, "aria-labelledby": "matrix-title" },
    el("thead", {}, head), el("tbody", {}, rows));
  const kept = document.activeElement?.closest?.(".matrix") && document.activeElement.getAttribute("aria-label");
  at("matrix").replaceChildren(...(second ? [el("div", { class: "which" }, choice("which", [
    ["fixed", `fixed by ${second.name}`], ["broken", "broken"], ["both", "wrong by both"]], { label: null, prediction: null }))] : []), table);
  const buttons = [...table.querySelectorAll("button")];
  (buttons.find((one) => one.ariaPressed === "true") ?? buttons[0])?.setAttribute("tabindex", "0");
  if (kept) buttons.find((one) => one.getAttribute("aria-label") === kept)?.focus();
  if (inMatrix.length < names.length) table.after(el("p", { class: "key" },
    `The ${inMatrix.length} of ${whole(names.length)} classes with the most errors; find others by name among the classes below.`));
}

at("matrix").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = event.target.closest("td, th");
  if (!step || !from) return;
  event.preventDefault();
  event.stopPropagation();
  const rows = [...at("matrix").querySelectorAll("tr")];
  let [row, place] = [rows.indexOf(from.parentElement), from.cellIndex];
  do { row += step[0]; place += step[1]; } while (rows[row]?.cells[place] && !rows[row].cells[place].querySelector("button"));
  const next = rows[row]?.cells[place]?.querySelector("button");
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

/* Buttons of which one is pressed. */
const choice = (key, options, besides = {}) => el("span", { class: "choice", role: "group", "aria-label": key }, options.map(([value, text]) =>
  el("button", { type: "button", "aria-pressed": String(view[key] === value), onclick: () => show({ ...besides, [key]: value }) }, text)));

/* What can be chosen among. */
function drawTools() {
  at("verdicts").hidden = !facts.verdicts;
  if (!facts.verdicts) return;
  const given = new Map();
  for (let k = 0; k < count; k++) if (isWrong(first, k)) given.set(verdictOf(k), (given.get(verdictOf(k)) ?? 0) + 1);
  const none = given.get("");
  given.delete("");
  const options = [...given].sort((a, b) => b[1] - a[1]);
  at("verdict").append(...[...options, ...(none ? [["none", none]] : [])].map(([name, n]) => el("option", { value: name }, `${name} (${whole(n)})`)));
  at("sort").append(el("option", { value: "doubt" }, "doubt in the label"));
}

function drawClasses() {
  const { perClass } = first;
  const hardest = [...perClass].filter(([, n]) => n).sort((a, b) => a[2] - b[2]).slice(0, 20);
  const listed = names.length <= 20 ? perClass : hardest;
  at("classes").append(...listed.map(([k, , accuracy, precision]) => el("div", { class: "row" },
    el("span", { title: names[k] }, names[k]),
    el("div", {},
      el("i", { class: "is", style: { width: `${100 * (accuracy ?? 0)}%` } }),
      el("i", { class: "said", style: { width: `${100 * (precision ?? 0)}%` } })),
    el("span", {}, accuracy === null ? "none" : percent(accuracy)))));
  if (listed.length < names.length) at("classes").append(el("p", { class: "key" }, `The ${listed.length} hardest of ${whole(names.length)}.`));
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawSureness() {
  const { reliability } = first;
  const [side, left, top] = [250, 38, 6];
  const x = (share) => left + side * share, y = (share) => top + side * (1 - share);
  const biggest = Math.max(...reliability.map((bin) => bin.n));
  const chart = svg("svg", { viewBox: "0 0 330 296", role: "img", "aria-label":
    `Accuracy by confidence. ${reliability.map((bin) => `${percent(bin.confidence)} sure: ${percent(bin.accuracy)} of ${bin.n} right`).join("; ")}` });
  for (const share of [0, 0.5, 1]) chart.append(
    svg("line", { x1: x(0), x2: x(1), y1: y(share), y2: y(share), stroke: "var(--line)" }),
    svg("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`),
    svg("text", { x: x(share), y: top + side + 16, "text-anchor": "middle" }, `${100 * share} %`));
  chart.append(svg("line", { x1: x(0), x2: x(1), y1: y(0), y2: y(1), stroke: "var(--soft)", "stroke-dasharray": "2 4" }));
  for (const bin of reliability) chart.append(
    svg("line", { x1: x(bin.confidence), x2: x(bin.confidence), y1: y(bin.confidence), y2: y(bin.accuracy), stroke: "var(--soft)", "stroke-width": 1 }),
    svg("circle", { cx: x(bin.confidence), cy: y(bin.accuracy), r: 2 + 6 * Math.sqrt(bin.n / biggest), fill: "var(--ink)" }));
  chart.append(svg("text", { x: x(0.5), y: top + side + 34, "text-anchor": "middle" }, "confidence"));
  at("sureness").append(chart, el("p", { class: "key" },
    "Height: how often it was right; size: how many images. On the dotted line, it is as sure as it is right."));
}

/* All images on a plane: errors, and the classes of the chosen cell, in their colours. */
const plane = facts.plane && { points: new Uint16Array(bytes(facts.plane.points)), label: new Uint16Array(bytes(facts.plane.label)) };

function drawPlane() {
  if (!plane) return;
  at("plane-section").hidden = false;
  const canvas = at("plane"), side = Math.round(canvas.clientWidth * devicePixelRatio) || 600;
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d");
  const dot = (k, radius) => {
    pen.beginPath();
    pen.arc((0.02 + 0.96 * plane.points[2 * k] / 65535) * side, (0.98 - 0.96 * plane.points[2 * k + 1] / 65535) * side, radius * devicePixelRatio, 0, 7);
    pen.fill();
  };
  const of = (wanted, colour, strength, radius) => {
    pen.fillStyle = colour;
    pen.globalAlpha = strength;
    for (let k = 0; k < facts.data.n; k++) if (wanted(k)) dot(k, radius);
  };
  const two = view.label !== null || view.prediction !== null;
  of((k) => !two || (plane.label[k] !== view.label && plane.label[k] !== view.prediction), colour("--soft"), two ? 0.1 : 0.22, 1);
  if (view.label !== null) of((k) => plane.label[k] === view.label, colour("--is-fill"), 0.45, 1.1);
  if (view.prediction !== null) of((k) => plane.label[k] === view.prediction, colour("--said-fill"), 0.45, 1.1);
  pen.fillStyle = colour("--ink");
  pen.globalAlpha = 0.9;
  for (const k of chosen()) dot(images.index[k], 1.7);
  if (view.image >= 0 && view.image !== null) {
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2 * devicePixelRatio;
    pen.beginPath();
    pen.arc((0.02 + 0.96 * plane.points[2 * view.image] / 65535) * side, (0.98 - 0.96 * plane.points[2 * view.image + 1] / 65535) * side, 8 * devicePixelRatio, 0, 7);
    pen.stroke();
  }
  at("plane-note").textContent = `The two first principal components of the features of all ${whole(facts.data.n)} images ` +
    `(${percent(facts.plane.share)} of their variance); strong: the errors${two ? " of this choice" : ""}. Click near one to open it.`;
}

at("plane").addEventListener("click", (event) => {
  const box = at("plane").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
  const away = (k) => Math.hypot(plane.points[2 * images.index[k]] / 65535 - (x - 0.02) / 0.96, plane.points[2 * images.index[k] + 1] / 65535 - (y - 0.02) / 0.96);
  const nearest = chosen().reduce((best, k) => (best === null || away(k) < away(best) ? k : best), null);
  if (nearest !== null) show({ image: images.index[nearest], class: null });
});

/* The gallery. */
const PAGE = 120;
let shown = PAGE;

function tile(k) {
  const index = images.index[k], label = images.label[k], sure = percent(probability(wrongOne(k), k, called(k)));
  return el("button", { type: "button", "data-image": index, "aria-current": String(index === view.image), onclick: () => show({ image: index, class: null }) },
    picture(pictureOf(k), index < 0 ? `your picture ${-index}` : `image ${index}`),
    label === null || label === called(k) ? null : el("span", { class: "is" }, names[label], marks[index] ? " ✓" : ""),
    el("span", { class: label === called(k) ? "is" : "said" }, `${names[called(k)]} ${sure}`));
}

function drawGallery() {
  const found = chosen();
  const { label, prediction } = view;
  const title = at("gallery-title");
  const kind = { fixed: "fixed", broken: "broken", both: "wrong by both" }[view.which];
  title.replaceChildren(`${whole(found.length)} ${kind ?? (found.length === 1 ? "error" : "errors")}`);
  if (label !== null && names[label] !== undefined) title.append(": ", is(names[label]));
  if (prediction !== null && names[prediction] !== undefined) title.append(label === null ? ": " : " ", "called ", said(names[prediction]));
  if (view.verdict) title.append(`, ${view.verdict === "none" ? "no verdict" : view.verdict}`);
  at("all").hidden = label === null && prediction === null && !view.find && !view.verdict;
  at("sort").value = view.sort;
  at("verdict").value = view.verdict;
  if (document.activeElement !== at("find")) at("find").value = view.find;
  at("grid").replaceChildren(...found.slice(0, shown).map(tile));
  at("more").hidden = found.length <= shown;
  at("more").textContent = `show ${whole(Math.min(PAGE, found.length - shown))} more`;
  if (!found.length) at("grid").append(el("p", { class: "key" }, count ? "None of the errors is like that." : "It gets everything right."));
}

/* Raw maps: whole numbers times a scale for each image, the first of which is image `from`. */
const unpacked = (layer, from) => ({
  ...layer, from, values: layer.bytes === 2 ? new Int16Array(bytes(layer.data)) : new Int8Array(bytes(layer.data)),
  most: Math.max(...layer.scale) * (layer.bytes === 2 ? 32767 : 127),
});
const rawMaps = new Map(models.map((model) => [model, model.layers.map((layer) => unpacked(layer, 0))]));
const layersOf = (model, k) => answers.get(k)?.layers ?? rawMaps.get(model);

function mapOf(model, layer, k, c) {
  const size = layer.grid[0] * layer.grid[1], row = k - layer.from;
  const start = (row * model.classes[k].length + column(model, k, c)) * size;
  return Float32Array.from(layer.values.subarray(start, start + size), (value) => value * layer.scale[row]);
}

/* Bilinear with half-pixel centres, or the cells themselves. */
function sampled(map, [h, w], height, width, smooth) {
  const out = new Float32Array(height * width);
  const clamp = (value, most) => Math.min(most - 1, Math.max(0, value));
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const v = clamp((y + 0.5) * h / height - 0.5, h), u = clamp((x + 0.5) * w / width - 0.5, w);
    if (!smooth) { out[y * width + x] = map[Math.round(v) * w + Math.round(u)]; continue; }
    const a = Math.floor(v), b = Math.floor(u), a1 = Math.min(h - 1, a + 1), b1 = Math.min(w - 1, b + 1), p = v - a, q = u - b;
    out[y * width + x] = (map[a * w + b] * (1 - q) + map[a * w + b1] * q) * (1 - p) + (map[a1 * w + b] * (1 - q) + map[a1 * w + b1] * q) * p;
  }
  return out;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const parts = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
const RAMPS = { // from nothing to the most, as in matplotlib
  viridis: ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"], magma: ["#000004", "#51127c", "#b73779", "#fc8961", "#fcfdbf"],
};
function along(ramp, share) {
  const place = share * (ramp.length - 1), low = Math.min(ramp.length - 2, Math.floor(place));
  const [a, b] = [parts(ramp[low]), parts(ramp[low + 1])];
  return a.map((value, k) => value + (b[k] - value) * (place - low));
}

function paint(canvas, image, map, grid, full, above, below, numbers) {
  const [h, w] = image.size, times = Math.max(1, Math.round(320 / Math.max(h, w)));
  const height = canvas.height = h * times, width = canvas.width = w * times;
  canvas.style.aspectRatio = `${w} / ${h}`;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = false;
  pen.drawImage(image.sheet, image.x * w, image.y * h, w, h, 0, 0, width, height);
  if (!map) return;
  const drawn = pen.getImageData(0, 0, width, height), at = drawn.data;
  const values = sampled(map, grid, height, width, view.grid === "smooth" && !numbers);
  const ramp = RAMPS[view.colours];
  for (let k = 0; k < values.length; k++) {
    const value = Math.max(-1, Math.min(1, values[k] / full)), side = value > 0 ? above : below;
    const grey = 0.3 * at[4 * k] + 0.59 * at[4 * k + 1] + 0.11 * at[4 * k + 2];
    const plainRamp = ramp && !numbers;
    const over = plainRamp ? along(ramp, Math.max(0, value)) : side;
    const strength = (plainRamp ? 0.8 : side ? Math.abs(value) : 0) * view.strength / 100;
    for (let part = 0; part < 3; part++) {
      const base = 0.45 * at[4 * k + part] + 0.55 * grey;
      at[4 * k + part] = over ? base * (1 - strength) + over[part] * strength : base;
    }
  }
  pen.putImageData(drawn, 0, 0);
  if (!numbers || grid[0] * grid[1] > 64) return;
  const [cellHeight, cellWidth] = [height / grid[0], width / grid[1]];
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = `600 ${Math.min(cellWidth / 3.9, cellHeight / 2.4)}px Inter, system-ui, sans-serif`;
  for (let i = 0; i < grid[0]; i++) for (let j = 0; j < grid[1]; j++) {
    pen.lineWidth = 1;
    pen.strokeStyle = "#ffffff55";
    pen.strokeRect(j * cellWidth, i * cellHeight, cellWidth, cellHeight);
    const text = signed(map[i * grid[1] + j]), spot = [(j + 0.5) * cellWidth, (i + 0.5) * cellHeight];
    pen.lineWidth = cellWidth / 18;
    pen.strokeStyle = "#000a";
    pen.strokeText(text, ...spot);
    pen.fillStyle = "#fff";
    pen.fillText(text, ...spot);
  }
}

const loaded = new Map();
function sheetOf(source) {
  if (!loaded.has(source)) loaded.set(source, new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.src = source;
  }));
  return loaded.get(source);
}

/* A class name in its colour; the prediction is the one of `model`. */
const inColour = (model, k, c) => (c === images.label[k] ? is : c === model.prediction[k] ? said : (text) => el("b", {}, text))(names[c]);

/* What a model saw: the evidence for two classes, their contrast, and the sentence that adds it up. Of an error the
   classes are the prediction and the label; otherwise the label, or the prediction where there is none, and the runner-up. */
function sight(model, k, drawings) {
  const label = images.label[k] ?? model.prediction[k], layers = layersOf(model, k), last = layers.at(-1);
  const layer = (wanted(k) && answers.get(k)?.chosen) || (view.depth === "last" ? last : layers[0]);
  const wrong = models.some((one) => isWrong(one, k));
  const fitting = [view.class, isWrong(model, k) ? model.prediction[k] : wrong ? called(k) : null, ...model.classes[k]];
  const other = fitting.find((c) => c !== null && c !== label && column(model, k, c) >= 0);
  const [one, two] = wrong ? [other, label] : [label, other];
  const tint = { [model.prediction[k]]: parts(colour("--said-fill")), [images.label[k]]: parts(colour("--is-fill")) };
  const ofClass = (c) => tint[c] ?? parts(colour("--ink"));
  const add = (text, drawing, ...caption) => {
    const canvas = el("canvas", { role: "img", "aria-label": text });
    drawings.push({ canvas, ...drawing });
    return el("figure", {}, canvas, el("figcaption", {}, ...caption));
  };
  const strongest = (map) => map.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
  const pair = [one, two].map((c) => mapOf(model, layer, k, c));
  const full = view.scale === "same" ? layer.most : Math.max(...pair.map(strongest));
  const views = [one, two].map((c, which) => add(`heat map of the evidence for ${names[c]}`, { map: pair[which], grid: layer.grid, full, above: ofClass(c) },
    "evidence for ", inColour(model, k, c), el("br"), `logit ${signed(logit(model, k, c))}`, pair[which].every((value) => value <= 0) ? ", no positive evidence" : ""));
  const against = mapOf(model, last, k, two), contrast = mapOf(model, last, k, one).map((value, spot) => value - against[spot]);
  views.push(add(`contrast of ${names[one]} and ${names[two]}, ${last.grid.join(" by ")} cells`,
    { map: contrast, grid: last.grid, full: strongest(contrast), above: ofClass(one), below: ofClass(two), numbers: true },
    "why ", inColour(model, k, one), " and not ", inColour(model, k, two), el("br"), `${last.name}, cell by cell, in logits`));
  const added = contrast.reduce((total, value) => total + value, 0), lead = logit(model, k, one) - logit(model, k, two);
  const sum = el("p", { class: "sum" }, "The cells add up to ", el("b", {}, signed(added)), model.exact ? ", the bias adds " : ", what lies behind them adds ",
    el("b", {}, signed(lead - Number(added.toFixed(2)))), ": together the ", lead < 0 ? "deficit" : "margin", " of ", el("b", {}, signed(lead)), " logits by which ",
    inColour(model, k, one), lead < 0 ? " lost to " : " won over ", inColour(model, k, two), ".");
  return { model, views, sum, full, other, layer };
}

function controls({ model, layer, other, full }, k) {
  const select = (key, text, options, value) => el("label", {}, text, el("select", { "data-control": key, onchange: (event) => show({ [key]: key === "class" ? Number(event.target.value) : event.target.value }) },
    options.map(([one, name]) => el("option", { value: one, ...(String(one) === String(value) ? { selected: "" } : {}) }, name))));
  const layers = layersOf(model, k), { live } = facts, label = images.label[k] ?? model.prediction[k];
  return el("div", { class: "controls" },
    live ? [select("layer", "layer", [...live.layers.slice(0, -1), ""].map((name) => [name, name || live.layers.at(-1)]), view.layer),
      select("method", "method", live.methods.map((name) => [name === live.method ? "" : name, name]), view.method)]
      : choice("depth", [...(layers.length > 1 ? [["earlier", layers[0].name]] : []), ["last", layers.at(-1).name]]),
    choice("grid", [["smooth", "smooth"], ["cells", `native ${layer.grid.join(" × ")}`]]),
    select("class", "class", (live ? [...names.keys()] : model.classes[k]).filter((c) => c !== label).map((c) => [c, names[c]]), other),
    el("label", {}, "strength", el("input", { type: "range", min: 10, max: 100, step: 5, value: view.strength, "data-control": "strength", oninput: (event) => show({ strength: Number(event.target.value) }) })),
    select("colours", "colours", [["meaning", "blue and orange"], ["viridis", "viridis"], ["magma", "magma"]], view.colours),
    el("label", {}, el("input", { type: "checkbox", "data-control": "scale", ...(view.scale === "same" ? { checked: "" } : {}), onchange: (event) => show({ scale: event.target.checked ? "same" : "own" }) }), "same scale for all"),
    el("span", {}, `full colour = ${full.toFixed(2)} logits a cell`));
}

function probabilities(model, k) {
  const { classes } = model, title = `Probabilities${second ? ` of ${model.name}` : ""}`;
  const bars = classes[k].map((c, spot) => [c, model.probability[k][spot]]).sort((a, b) => b[1] - a[1]);
  return [el("h3", {}, classes[k].length < names.length ? `${title}, ${classes[k].length} of ${whole(names.length)}` : title), ...bars.map(([c, share]) => el("div", { class: "row" },
    el("span", { title: names[c] }, inColour(model, k, c)),
    el("i", { class: c === images.label[k] ? "is" : c === model.prediction[k] ? "said" : "", style: { width: `${100 * share}%` } }),
    el("span", {}, percent(share))))];
}

/* The verdict on an error of the first model, with its reason and how often such verdicts were right. */
function verdict(k) {
  const name = verdictOf(k), measured = facts.verdicts?.reliability[name], people = measured?.["on CIFAR-10"];
  if (!facts.verdicts || k >= count || !isWrong(first, k)) return null;
  if (!name) return el("p", { class: "verdict" }, el("b", {}, "No verdict"), ": none of the signs is there.");
  return el("p", { class: "verdict" }, el("b", {}, name[0].toUpperCase() + name.slice(1)), `: ${facts.verdicts.why[k].replaceAll(" %", "\u00a0%")}.`,
    measured ? el("small", {}, ` On drawn pictures whose causes are known, ${measured.right} of ${measured.given} such verdicts were right`,
      people ? `; on CIFAR-10, ${people.right} of the ${people.judged} that people judged.` : ".") : null);
}

/* The training images behind what the first model says. */
function fromTraining(k) {
  const [evidence, row] = k < count ? [facts.evidence, k] : [answers.get(k).evidence, 0];
  if (!evidence || (k < count && !isWrong(first, k))) return [];
  const kinds = [["towards", ["Training images that pulled towards ", said(names[first.prediction[k]])]], ["away", ["and towards ", is(names[images.label[k]])]], ["nearest", ["Nearest training images"]]];
  return kinds.filter(([kind]) => evidence.lists[kind]).map(([kind, title]) => el("div", { class: "evidence", "data-kind": kind }, el("h3", {}, ...title), el("div", {}, evidence.lists[kind][row].filter((number) => number >= 0).map((number, spot) => {
    const c = evidence.label[number], score = signed(evidence.scores[kind][row][spot]);
    return el("figure", { title: `${evidence.file[number]}, ${score}` },
      picture([evidence.pictures, number], `training image ${evidence.index[number]}, ${names[c]}`),
      el("figcaption", {}, el("span", { class: c === images.label[k] ? "is" : c === first.prediction[k] ? "said" : "" }, names[c]), el("br"), score));
  }))));
}

/* The card of one image. */
function title(model, k) {
  const label = images.label[k], sure = `with ${percent(probability(model, k, called(k)))}`, prediction = said(names[called(k)]);
  const answer = answers.get(k), [height, width] = answer?.size ?? facts.side, frames = answer?.frames > 1 ? `, the first of its ${answer.frames} frames` : "";
  const words = label === null ? ["Called ", prediction, ` ${sure}`] : label === called(k) ? [is(names[label]), `, and called so ${sure}`] : [is(names[label]), ", called ", prediction, ` ${sure}`];
  return [el("div", { class: "title" }, el("h2", {}, ...words),
    el("small", {}, view.image < 0 ? `your picture ${-view.image}${frames}` : `${facts.data.split} image ${view.image}, ${images.file[k]}`)),
  `the picture, ${width} × ${height}${view.image < 0 ? `, which the network sees at ${facts.side[1]} × ${facts.side[0]}` : ""}`];
}

function drawCard() {
  const card = at("card"), k = images.index.indexOf(view.image);
  if (view.image !== null && asks(k)) ask(view.image);
  if (view.image !== null && k < 0) return; // until the answer is there
  card.hidden = k < 0;
  document.querySelector("main").classList.toggle("open", k >= 0);
  if (k < 0) return;
  const model = wrongOne(k), own = el("canvas", { role: "img", "aria-label": view.image < 0 ? "your picture" : `image ${view.image}` });
  const drawings = [{ canvas: own }], sights = models.map((one) => sight(one, k, drawings));
  const [heading, caption] = title(model, k), itself = el("figure", {}, own, el("figcaption", {}, caption));
  const says = ({ model: one }) => el("h3", { class: "of" }, el("b", {}, one.name), " says ", inColour(one, k, one.prediction[k]), ` with ${percent(probability(one, k, one.prediction[k]))}`);
  const kept = card.contains(document.activeElement) && document.activeElement.dataset.control;
  card.replaceChildren(
    el("button", { type: "button", id: "close", "aria-label": "close", onclick: () => show({ image: null, class: null }) }, "×"),
    heading, verdict(k) ?? "",
    ...sights.flatMap((one, which) => [...(second ? [says(one)] : []), el("div", { class: "views" }, which ? el("span") : itself, one.views), one.sum]),
    controls(sights[models.indexOf(model)], k), ...(k < count ? [decisions(k)] : []),
    el("div", { class: "low" }, el("div", {}, models.flatMap((one) => probabilities(one, k))), el("div", {}, fromTraining(k))));
  if (kept) card.querySelector(`[data-control="${kept}"]`)?.focus();
  const [pictures, number] = pictureOf(k), { sheet, x, y } = place(pictures, number);
  sheetOf(pictures.sheets[sheet]).then((image) => {
    for (const one of drawings) paint(one.canvas, { sheet: image, x, y, size: pictures.size }, one.map, one.grid, one.full, one.above, one.below, one.numbers);
  });
}

/* Asking the network, where the page is served: answers by image, k; pictures of the visitor have negative numbers. */
const answers = new Map(), uploads = new Map();
let asking = "", refused = "";
const missing = (k) => view.class !== null && view.class in names && (k < 0 || column(first, k, view.class) < 0);
const wanted = (k) => [view.layer, view.method, missing(k) ? names[view.class] : ""].some(Boolean);
const question = () => JSON.stringify([view.image, view.layer, view.method, view.class]);

/* Whether what is to be shown is not there. */
function asks(k) {
  if (!facts.live || asking === question() || refused === question()) return false;
  const { layer, method } = answers.get(k) ?? { layer: "", method: "" };
  return k < 0 || missing(k) || (wanted(k) && (layer !== view.layer || method !== view.method));
}

async function ask(image) {
  const { layer, method } = view, told = at("answer"), mine = asking = question();
  const given = new URLSearchParams({ layer, method, class: view.class === null ? "" : names[view.class] });
  if (!uploads.has(image)) given.set("image", image);
  told.textContent = "asking …";
  let answer;
  try {
    let response;
    for (let attempt = 0; attempt < 5; attempt++) {
      response = await fetch(`explain?${given}`, { method: "POST", body: uploads.get(image) });
      if (response.status !== 503) break;
      await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") ?? 1)));
    }
    answer = await response.json();
  } catch {
    answer = { error: "the server does not answer; is it still running?" };
  }
  if (asking === mine) asking = "";
  told.textContent = answer.error ?? "";
  if (answer.error) {
    refused = mine;
    if (view.image === image && !images.index.includes(image)) show({ image: null, class: null });
    return;
  }
  take(image, { ...answer, layer, method });
  draw();
}

function take(image, answer) {
  const there = images.index.indexOf(image), k = there < 0 ? images.index.length : there;
  images.index[k] = image;
  images.file[k] = answer.file;
  images.label[k] = answer.label;
  for (const key of ["prediction", "classes", "probability", "logit", "rest", "loss"]) first[key][k] = answer.model[key][0];
  answers.set(k, { ...answer, layers: answer.model.layers.map((layer) => unpacked(layer, k)), chosen: answer.chosen && unpacked(answer.chosen, k) });
}

function drawAsked() {
  at("ask").hidden = !facts.live;
  at("asked").replaceChildren(...images.index.flatMap((_, k) => (k < count ? [] : [tile(k)])));
}

function open(files) {
  const picked = [...files];
  for (const file of picked) uploads.set(-1 - uploads.size, file);
  if (picked.length) show({ image: -uploads.size, class: null });
}
if (facts.live) {
  at("upload").addEventListener("change", (event) => { open(event.target.files); event.target.value = ""; });
  at("number").max = facts.data.n - 1;
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (at("number").value !== "") show({ image: Number(at("number").value), class: null });
  });
  addEventListener("paste", (event) => open(event.clipboardData.files));
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("dropping"); open(event.dataTransfer.files); });
}

/* Marks, kept by the browser for this network and these images. */
const KEY = `camlens ${facts.id}`;
const marks = (() => { try { return JSON.parse(localStorage.getItem(KEY)) ?? {}; } catch { return {}; } })();

function mark(index, value) {
  if (value === null || marks[index] === value) delete marks[index]; else marks[index] = value;
  try { localStorage.setItem(KEY, JSON.stringify(marks)); } catch { /* a private window: they last as long as the page */ }
  draw();
}

function decisions(k) {
  const index = images.index[k], now = marks[index] ?? "";
  const button = (value, text) => el("button", { type: "button", class: "plain", "aria-pressed": String(now === value), "data-control": value, onclick: () => mark(index, value) }, text);
  return el("div", { class: "decide" }, "This error is",
    el("select", { "aria-label": "a wrong label: it is …", "data-control": "wrong", onchange: (event) => mark(index, event.target.value || null) },
      el("option", { value: "" }, "a wrong label: it is …"),
      names.map((name, c) => c === images.label[k] ? null : el("option", { value: `wrong:${name}`, ...(now === `wrong:${name}` ? { selected: "" } : {}) }, `a wrong label: ${name}`))),
    button("ambiguous", "ambiguous"), button("real", "a real mistake"));
}

function drawMarks() {
  const given = Object.keys(marks).length;
  at("marks").hidden = !given;
  at("marked").textContent = `${whole(given)} marked`;
}

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));
at("export").addEventListener("click", () => {
  const rows = images.index.slice(0, count).flatMap((index, k) => marks[index] ? [[index, images.file[k], names[images.label[k]], names[called(k)], marks[index]]] : []);
  const text = [["index", "path", "label", "prediction", "mark"], ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: "marks.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
});

/* Keys and the rest of what can be touched. */
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "Escape" && view.image !== null) {
    const from = view.image;
    show({ image: null, class: null });
    document.querySelector(`[data-image="${from}"]`)?.focus();
    return;
  }
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.target.matches("input, select, textarea")) return;
  const found = chosen().map((k) => images.index[k]);
  if (!found.length) return;
  event.preventDefault();
  const here = found.indexOf(view.image), next = here < 0 ? 0 : (here + step + found.length) % found.length;
  if (next >= shown) shown = Math.ceil((next + 1) / PAGE) * PAGE;
  show({ image: found[next], class: null });
  document.querySelector(`[data-image="${found[next]}"]`)?.scrollIntoView({ block: "nearest" });
});
at("tools").addEventListener("submit", (event) => event.preventDefault());
at("verdict").addEventListener("change", (event) => show({ verdict: event.target.value }));
at("sort").addEventListener("change", (event) => show({ sort: event.target.value }));
at("find").addEventListener("input", (event) => { shown = PAGE; show({ find: event.target.value }); });
at("all").addEventListener("click", () => { at("find").value = ""; show({ label: null, prediction: null, verdict: "", find: "" }); });
at("more").addEventListener("click", () => { shown += PAGE; draw(); });
addEventListener("hashchange", () => { readAddress(); draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

function draw() {
  drawMatrix();
  drawGallery();
  drawAsked();
  drawCard();
  drawPlane();
  drawMarks();
}

readAddress();
if (!location.hash && innerWidth > 980) view.image = images.index[chosen()[0]] ?? null;
drawHead();
drawTools();
drawClasses();
drawSureness();
draw();
