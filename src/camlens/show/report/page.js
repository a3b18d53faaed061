"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const { names, errors } = facts;
const count = errors.index.length;
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
  label: null, prediction: null, sort: "confidence", find: "", image: null,
  layer: facts.layers.length ? facts.layers.at(-1).name : null, class: null,
  grid: "smooth", strength: 75, colours: "meaning", scale: "own",
};
const view = { ...START };
const NUMBERS = ["label", "prediction", "image", "class", "strength"];

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  Object.assign(view, START);
  for (const [key, value] of given) if (key in START) view[key] = NUMBERS.includes(key) ? Number(value) : value;
  if (!facts.layers.some((layer) => layer.name === view.layer)) view.layer = START.layer;
  if (view.image !== null && !errors.index.includes(view.image)) view.image = null;
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
const sheetStyle = document.head.appendChild(el("style"));
const small = ({ size }) => Math.max(...size) <= 64;
for (const [kind, pictures] of [["error", facts.pictures], ["train", facts.evidence?.pictures]])
  (pictures?.sheets ?? []).forEach((source, k) => sheetStyle.append(`.${kind}-${k}{background-image:url(${source})}\n`));

function picture(kind, pictures, number, alt) {
  const { sheet, x, y } = place(pictures, number);
  const total = kind === "error" ? count : facts.evidence.index.length;
  const rows = Math.ceil(Math.min(pictures.per, total - sheet * pictures.per) / pictures.columns);
  const style = {
    aspectRatio: `${pictures.size[1]} / ${pictures.size[0]}`,
    backgroundSize: `${100 * pictures.columns}% ${100 * rows}%`,
    backgroundPosition: `${(100 * x) / (pictures.columns - 1)}% ${rows > 1 ? (100 * y) / (rows - 1) : 0}%`,
  };
  return el("span", { class: `picture ${kind}-${sheet}${small(pictures) ? " sharp" : ""}`, role: "img", "aria-label": alt, style });
}

/* The errors that are chosen, in order. */
const column = (k, c) => errors.classes[k].indexOf(c);
const probability = (k, c) => errors.probability[k][column(k, c)];
const logit = (k, c) => errors.logit[k][column(k, c)];
const margin = (k) => logit(k, errors.prediction[k]) - logit(k, errors.label[k]);
const worth = {
  confidence: (k) => -probability(k, errors.prediction[k]), margin: (k) => -margin(k),
  loss: (k) => -errors.loss[k], index: (k) => errors.index[k],
};

function chosen() {
  const sought = view.find.trim().toLowerCase();
  const found = [];
  for (let k = 0; k < count; k++) {
    if (view.label !== null && errors.label[k] !== view.label) continue;
    if (view.prediction !== null && errors.prediction[k] !== view.prediction) continue;
    if (sought && String(errors.index[k]) !== sought && !errors.file[k].toLowerCase().includes(sought)) continue;
    found.push(k);
  }
  const value = worth[view.sort] ?? worth.confidence;
  return found.sort((a, b) => value(a) - value(b) || a - b);
}

/* The head, which does not change. */
function drawHead() {
  const { model, data } = facts;
  at("about").append(
    `${whole(model.parameters)} parameters, input ${model.input}; ${whole(data.n)} ${data.split} images of ` +
    `${data.size.replace("x", "×")}, ${names.length} classes` + (facts.layers.length ? `; maps by HiResCAM at ${facts.layers.map((l) => l.name).join(" and ")}, in logits` : ""),
  );
  const [low, high] = facts.interval;
  const figures = [
    [`${(100 * facts.accuracy).toFixed(2)} %`, `accuracy (${(100 * low).toFixed(2)} to ${(100 * high).toFixed(2)})`],
    [whole(count), count === 1 ? "error" : "errors"],
    [`${(100 * facts.ece).toFixed(1)} %`, "calibration error"],
  ];
  at("figures").append(...figures.map(([value, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  at("findings").append(...facts.findings.map((text) => el("li", {}, text)));
}

/* The matrix: with many classes, of those with the most errors. */
const cells = new Map(facts.confusion.map(([i, j, n]) => [i * names.length + j, n]));
const cell = (i, j) => cells.get(i * names.length + j) ?? 0;
const inMatrix = (() => {
  const weight = new Array(names.length).fill(0);
  for (const [i, j, n] of facts.confusion) if (i !== j) { weight[i] += n; weight[j] += n; }
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
  const most = Math.max(1, ...facts.confusion.filter(([i, j]) => i !== j).map(([, , n]) => n));
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
      const n = cell(i, j);
      if (i === j) return el("td", {}, el("span", { title: `${names[i]}: ${whole(n)} right` }, String(n)));
      if (!n) return el("td", {});
      const style = onFill(0.08 + 0.74 * Math.sqrt(n / most));
      return el("td", {}, button(i, j, String(n), `${names[i]} called ${names[j]}: ${many(n)}`, style));
    })));
  const table = el("table", { class: `matrix${inMatrix.length > 12 ? " small" : ""}`, "aria-labelledby": "matrix-title" },
    el("thead", {}, head), el("tbody", {}, rows));
  const kept = document.activeElement?.closest?.(".matrix") && document.activeElement.getAttribute("aria-label");
  at("matrix").replaceChildren(table);
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

function drawClasses() {
  const hardest = [...facts.perClass].filter(([, n]) => n).sort((a, b) => a[2] - b[2]).slice(0, 20);
  const listed = names.length <= 20 ? facts.perClass : hardest;
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
  const [side, left, top] = [250, 38, 6];
  const x = (share) => left + side * share, y = (share) => top + side * (1 - share);
  const biggest = Math.max(...facts.reliability.map((bin) => bin.n));
  const chart = svg("svg", { viewBox: "0 0 330 296", role: "img", "aria-label":
    `Accuracy by confidence. ${facts.reliability.map((bin) => `${percent(bin.confidence)} sure: ${percent(bin.accuracy)} of ${bin.n} right`).join("; ")}` });
  for (const share of [0, 0.5, 1]) chart.append(
    svg("line", { x1: x(0), x2: x(1), y1: y(share), y2: y(share), stroke: "var(--line)" }),
    svg("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`),
    svg("text", { x: x(share), y: top + side + 16, "text-anchor": "middle" }, `${100 * share} %`));
  chart.append(svg("line", { x1: x(0), x2: x(1), y1: y(0), y2: y(1), stroke: "var(--soft)", "stroke-dasharray": "2 4" }));
  for (const bin of facts.reliability) chart.append(
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
  for (const k of chosen()) dot(errors.index[k], 1.7);
  if (view.image !== null) {
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2 * devicePixelRatio;
    pen.beginPath();
    pen.arc((0.02 + 0.96 * plane.points[2 * view.image] / 65535) * side, (0.98 - 0.96 * plane.points[2 * view.image + 1] / 65535) * side, 8 * devicePixelRatio, 0, 7);
    pen.stroke();
  }
  at("plane-note").textContent = `The two first principal components of the features of all ${whole(facts.data.n)} images ` +
    `(${percent(facts.plane.share)} of their variance); dark: the errors${two ? " of this choice" : ""}. Click near one to open it.`;
}

at("plane").addEventListener("click", (event) => {
  const box = at("plane").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
  const away = (k) => Math.hypot(plane.points[2 * errors.index[k]] / 65535 - (x - 0.02) / 0.96, plane.points[2 * errors.index[k] + 1] / 65535 - (y - 0.02) / 0.96);
  const nearest = chosen().reduce((best, k) => (best === null || away(k) < away(best) ? k : best), null);
  if (nearest !== null) show({ image: errors.index[nearest], class: null });
});

/* The gallery. */
const PAGE = 120;
let shown = PAGE;

function drawGallery() {
  const found = chosen();
  const { label, prediction } = view;
  const title = at("gallery-title");
  title.replaceChildren(`${whole(found.length)} ${found.length === 1 ? "error" : "errors"}`);
  if (label !== null && names[label] !== undefined) title.append(": ", is(names[label]));
  if (prediction !== null && names[prediction] !== undefined) title.append(label === null ? ": " : " ", "called ", said(names[prediction]));
  at("all").hidden = label === null && prediction === null && !view.find;
  at("sort").value = view.sort;
  if (document.activeElement !== at("find")) at("find").value = view.find;
  at("grid").replaceChildren(...found.slice(0, shown).map((k) => {
    const [of, to] = [names[errors.label[k]], names[errors.prediction[k]]];
    const sure = percent(probability(k, errors.prediction[k]));
    return el("button", { type: "button", "data-image": errors.index[k], "aria-current": String(errors.index[k] === view.image), onclick: () => show({ image: errors.index[k], class: null }) },
      picture("error", facts.pictures, k, `image ${errors.index[k]}`),
      el("span", { class: "is" }, of, marks[errors.index[k]] ? " ✓" : ""), el("span", { class: "said" }, `${to} ${sure}`));
  }));
  at("more").hidden = found.length <= shown;
  at("more").textContent = `show ${whole(Math.min(PAGE, found.length - shown))} more`;
  if (!found.length) at("grid").append(el("p", { class: "key" }, count ? "None of the errors is like that." : "It gets everything right."));
}

/* Raw maps: whole numbers times a scale for each error. */
const rawMaps = facts.layers.map((layer) => ({
  ...layer, values: layer.bytes === 2 ? new Int16Array(bytes(layer.data)) : new Int8Array(bytes(layer.data)),
  most: Math.max(...layer.scale) * (layer.bytes === 2 ? 32767 : 127),
}));

function mapOf(layer, k, c) {
  const size = layer.grid[0] * layer.grid[1], start = (k * errors.classes[0].length + column(k, c)) * size;
  return Float32Array.from(layer.values.subarray(start, start + size), (value) => value * layer.scale[k]);
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
  const [h, w] = facts.pictures.size, times = Math.max(1, Math.round(320 / Math.max(h, w)));
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
function sheetOf(number) {
  if (!loaded.has(number)) loaded.set(number, new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.src = facts.pictures.sheets[number];
  }));
  return loaded.get(number);
}

/* The card of one error. */
function drawCard() {
  const k = errors.index.indexOf(view.image), card = at("card");
  card.hidden = k < 0;
  document.querySelector("main").classList.toggle("open", k >= 0);
  if (k < 0) return;
  const [label, prediction] = [errors.label[k], errors.prediction[k]];
  const other = view.class !== null && column(k, view.class) >= 0 && view.class !== label ? view.class : prediction;
  const paper = (c) => (c === label ? is : c === prediction ? said : (text) => el("b", {}, text))(names[c]);
  const layer = rawMaps.find((one) => one.name === view.layer), last = rawMaps.at(-1);
  const canvas = (text) => el("canvas", { role: "img", "aria-label": text });
  const figure = (drawn, ...caption) => el("figure", {}, drawn, el("figcaption", {}, ...caption));
  const views = [], drawings = [];
  const add = (drawing, ...caption) => { views.push(figure(drawing.canvas, ...caption)); drawings.push(drawing); };
  add({ canvas: canvas(`image ${view.image}`) }, `the picture, ${facts.side[1]} × ${facts.side[0]}`);
  let sum = null, full = 0;
  if (layer) {
    const pair = [other, label].map((c) => mapOf(layer, k, c));
    full = view.scale === "same" ? layer.most : Math.max(1e-9, ...pair.flatMap((map) => map.reduce((most, v) => Math.max(most, Math.abs(v)), 0)));
    const tint = { [label]: parts(colour("--is-fill")), [prediction]: parts(colour("--said-fill")) };
    [other, label].forEach((c, which) => {
      const none = pair[which].every((value) => value <= 0);
      add({ canvas: canvas(`heat map of the evidence for ${names[c]}`), map: pair[which], grid: layer.grid, full, above: tint[c] ?? parts(colour("--ink")) },
        "evidence for ", paper(c), el("br"), `logit ${signed(logit(k, c))}`, none ? ", no positive evidence" : "");
    });
    const contrast = mapOf(last, k, other).map((value, place) => value - mapOf(last, k, label)[place]);
    const extreme = contrast.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
    add({ canvas: canvas(`contrast of ${names[other]} and ${names[label]}, ${last.grid.join(" by ")} cells`), map: contrast, grid: last.grid,
      full: extreme, above: tint[other] ?? parts(colour("--ink")), below: tint[label], numbers: true },
      "why ", paper(other), " and not ", paper(label), el("br"), `${last.name}, cell by cell, in logits`);
    const added = contrast.reduce((total, value) => total + value, 0);
    const rest = errors.rest[k][column(k, other)] - errors.rest[k][column(k, label)], lead = logit(k, other) - logit(k, label);
    sum = el("p", { class: "sum" }, "The cells add up to ", el("b", {}, signed(added)), facts.exact ? ", the bias adds " : ", what lies behind them adds ",
      el("b", {}, signed(lead - Number(added.toFixed(2)))), ": together the ", lead < 0 ? "deficit" : "margin", " of ", el("b", {}, signed(lead)), " logits by which ",
      paper(other), lead < 0 ? " lost to " : " won over ", paper(label), ".");
  }
  const choice = (key, options) => el("span", { class: "choice", role: "group", "aria-label": key }, options.map(([value, text]) =>
    el("button", { type: "button", "aria-pressed": String(view[key] === value), onclick: () => show({ [key]: value }) }, text)));
  const select = (key, text, options, value) => el("label", {}, text, el("select", { "data-control": key, onchange: (event) => show({ [key]: key === "class" ? Number(event.target.value) : event.target.value }) },
    options.map(([one, name]) => el("option", { value: one, ...(String(one) === String(value) ? { selected: "" } : {}) }, name))));
  const controls = layer && el("div", { class: "controls" },
    choice("layer", rawMaps.map((one) => [one.name, one.name])),
    choice("grid", [["smooth", "smooth"], ["cells", `native ${layer.grid.join(" × ")}`]]),
    select("class", "class", errors.classes[k].filter((c) => c !== label).map((c) => [c, names[c]]), other),
    el("label", {}, "strength", el("input", { type: "range", min: 10, max: 100, step: 5, value: view.strength, "data-control": "strength", oninput: (event) => show({ strength: Number(event.target.value) }) })),
    select("colours", "colours", [["meaning", "blue and orange"], ["viridis", "viridis"], ["magma", "magma"]], view.colours),
    el("label", {}, el("input", { type: "checkbox", "data-control": "scale", ...(view.scale === "same" ? { checked: "" } : {}), onchange: (event) => show({ scale: event.target.checked ? "same" : "own" }) }), "same scale for all"),
    el("span", {}, `full colour = ${full.toFixed(2)} logits a cell`));
  const bars = errors.classes[k].map((c, place) => [c, errors.probability[k][place]]).sort((a, b) => b[1] - a[1]).map(([c, share]) => el("div", { class: "row" },
    el("span", { title: names[c] }, c === label || c === prediction ? paper(c) : names[c]),
    el("i", { class: c === label ? "is" : c === prediction ? "said" : "", style: { width: `${100 * share}%` } }),
    el("span", {}, percent(share))));
  const kinds = [
    ["towards", ["Training images that pulled towards ", said(names[prediction])]],
    ["away", ["and towards ", is(names[label])]],
    ["nearest", ["Nearest training images"]],
  ];
  const lists = facts.evidence && kinds.map(([kind, title]) => el("div", { class: "evidence", "data-kind": kind }, el("h3", {}, ...title), el("div", {},
    facts.evidence.lists[kind][k].map((number, place) => {
      if (number < 0) return null;
      const c = facts.evidence.label[number], score = signed(facts.evidence.scores[kind][k][place]);
      return el("figure", { title: `${facts.evidence.file[number]}, ${score}` },
        picture("train", facts.evidence.pictures, number, `training image ${facts.evidence.index[number]}, ${names[c]}`),
        el("figcaption", {}, el("span", { class: c === label ? "is" : c === prediction ? "said" : "" }, names[c]), el("br"), score));
    }))));
  const kept = card.contains(document.activeElement) && document.activeElement.dataset.control;
  card.replaceChildren(
    el("button", { type: "button", id: "close", "aria-label": "close", onclick: () => show({ image: null, class: null }) }, "×"),
    el("div", { class: "title" }, el("h2", {}, is(names[label]), ", called ", said(names[prediction]), ` with ${percent(probability(k, prediction))}`),
      el("small", {}, `${facts.data.split} image ${view.image}, ${errors.file[k]}`)),
    el("div", { class: "views" }, views), sum ?? "", controls ?? "", decisions(k),
    el("div", { class: "low" }, el("div", {}, el("h3", {}, bars.length < names.length ? `Probabilities, ${bars.length} of ${whole(names.length)}` : "Probabilities"), bars), el("div", {}, lists ?? "")));
  if (kept) card.querySelector(`[data-control="${kept}"]`)?.focus();
  const { sheet, x, y } = place(facts.pictures, k);
  sheetOf(sheet).then((image) => {
    for (const one of drawings) paint(one.canvas, { sheet: image, x, y }, one.map, one.grid, one.full, one.above, one.below, one.numbers);
  });
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
  const index = errors.index[k], now = marks[index] ?? "";
  const button = (value, text) => el("button", { type: "button", class: "plain", "aria-pressed": String(now === value), "data-control": value, onclick: () => mark(index, value) }, text);
  return el("div", { class: "decide" }, "This error is",
    el("select", { "aria-label": "a wrong label: it is …", "data-control": "wrong", onchange: (event) => mark(index, event.target.value || null) },
      el("option", { value: "" }, "a wrong label: it is …"),
      names.map((name, c) => c === errors.label[k] ? null : el("option", { value: `wrong:${name}`, ...(now === `wrong:${name}` ? { selected: "" } : {}) }, `a wrong label: ${name}`))),
    button("ambiguous", "ambiguous"), button("real", "a real mistake"));
}

function drawMarks() {
  const given = Object.keys(marks).length;
  at("marks").hidden = !given;
  at("marked").textContent = `${whole(given)} marked`;
}

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));
at("export").addEventListener("click", () => {
  const rows = errors.index.flatMap((index, k) => marks[index] ? [[index, errors.file[k], names[errors.label[k]], names[errors.prediction[k]], marks[index]]] : []);
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
  const found = chosen().map((k) => errors.index[k]);
  if (!found.length) return;
  event.preventDefault();
  const here = found.indexOf(view.image), next = here < 0 ? 0 : (here + step + found.length) % found.length;
  if (next >= shown) shown = Math.ceil((next + 1) / PAGE) * PAGE;
  show({ image: found[next], class: null });
  document.querySelector(`[data-image="${found[next]}"]`)?.scrollIntoView({ block: "nearest" });
});
at("tools").addEventListener("submit", (event) => event.preventDefault());
at("sort").addEventListener("change", (event) => show({ sort: event.target.value }));
at("find").addEventListener("input", (event) => { shown = PAGE; show({ find: event.target.value }); });
at("all").addEventListener("click", () => { at("find").value = ""; show({ label: null, prediction: null, find: "" }); });
at("more").addEventListener("click", () => { shown += PAGE; draw(); });
addEventListener("hashchange", () => { readAddress(); draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());

function draw() {
  drawMatrix();
  drawGallery();
  drawCard();
  drawPlane();
  drawMarks();
}

readAddress();
if (!location.hash && innerWidth > 980 && count) view.image = errors.index[0];
drawHead();
drawClasses();
drawSureness();
draw();
