/* All images on a plane: the errors, and the classes of the chosen cell in their colours. */

import { colour } from "./colours.js";
import { byId, integer, wholePercent } from "./dom.js";
import { bytes, classNames, data, images, plane } from "./schema.js";
import { selectErrors } from "./selection.js";
import { openImage, view } from "./state.js";

const points = plane && new Uint16Array(bytes(plane.points)); // across and up, for each image of the data
const labels = plane && new Uint16Array(bytes(plane.label));
const MARGIN = 0.02; // of the side

/* Where an image lies, as fractions across and up, before the margin. */
const across = (index) => points[2 * index] / 65535;
const up = (index) => points[2 * index + 1] / 65535;

/* Where the name of a class goes: the median of its images; null for one without images. */
const median = (values) => Float64Array.from(values).sort()[values.length >> 1];
let centres = null;
function findCentres() {
  const indices = classNames.map(() => []);
  labels.forEach((c, index) => indices[c].push(index));
  return indices.map((some) => (some.length ? [median(some.map(across)), median(some.map(up))] : null));
}
const MOST_NAMES = 20; // without a choice of classes

/* Class names on the plane, each below those that it would cover. */
function writeNames(pen, place, side) {
  const chosen = [view.label, view.prediction].filter((c) => c !== null);
  const shown = chosen.length ? chosen : classNames.length <= MOST_NAMES ? [...classNames.keys()] : [];
  const size = 12 * devicePixelRatio, written = [];
  centres ??= findCentres();
  pen.globalAlpha = 1;
  pen.font = `600 ${size}px Inter, system-ui, sans-serif`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.lineWidth = 3 * devicePixelRatio;
  pen.lineJoin = "round";
  pen.strokeStyle = colour("paper");
  const names = shown.filter((c) => centres[c]).map((c) => [c, ...place(...centres[c])]).sort((a, b) => a[2] - b[2]);
  for (const [c, centre, height] of names) {
    const half = pen.measureText(classNames[c]).width / 2, x = Math.min(Math.max(centre, half), side - half);
    let y = height;
    for (const other of written) if (Math.abs(other.x - x) < other.half + half && Math.abs(other.y - y) < size) y = other.y + size;
    written.push({ x, y, half });
    pen.strokeText(classNames[c], x, y);
    pen.fillStyle = colour(c === view.label ? "label" : c === view.prediction ? "prediction" : "ink");
    pen.fillText(classNames[c], x, y);
  }
}

export function drawPlane() {
  if (!points) return;
  byId("plane-section").hidden = false;
  const canvas = byId("plane"), side = Math.round(canvas.clientWidth * devicePixelRatio) || 600;
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d"), inside = 1 - 2 * MARGIN;
  const place = (right, high) => [(MARGIN + inside * right) * side, (1 - MARGIN - inside * high) * side];
  const circle = (index, radius) => {
    pen.beginPath();
    pen.arc(...place(across(index), up(index)), radius * devicePixelRatio, 0, 7);
  };
  const dots = (indices, name, alpha, radius) => {
    pen.fillStyle = colour(name);
    pen.globalAlpha = alpha;
    for (const index of indices) {
      circle(index, radius);
      pen.fill();
    }
  };
  const { label, prediction } = view, some = label !== null || prediction !== null;
  const all = [...Array(data.n).keys()], ofClass = (c) => all.filter((index) => labels[index] === c);
  dots(all.filter((index) => ![label, prediction].includes(labels[index])), "soft", some ? 0.1 : 0.22, 1);
  if (label !== null) dots(ofClass(label), "label-fill", 0.45, 1.1);
  if (prediction !== null) dots(ofClass(prediction), "prediction-fill", 0.45, 1.1);
  dots(selectErrors().map((row) => images.index[row]), "ink", 0.9, 1.7);
  writeNames(pen, place, side);
  if (view.image >= 0 && view.image !== null) {
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 2 * devicePixelRatio;
    circle(view.image, 8);
    pen.stroke();
  }
  const chosen = some ? "selected " : "";
  byId("plane-note").textContent = `The first two principal components of the features of all ${integer(data.n)} ` +
    `images (${wholePercent(plane.share)} of the variance). Each class name is near the median of its images. The large ` +
    `points are the ${chosen}errors; click near one to open it.`;
}

/* Open the error nearest to a click. */
export function openNearest(event) {
  const box = byId("plane").getBoundingClientRect(), inside = 1 - 2 * MARGIN;
  const x = ((event.clientX - box.left) / box.width - MARGIN) / inside;
  const y = (1 - (event.clientY - box.top) / box.height - MARGIN) / inside;
  const distance = (index) => Math.hypot(across(index) - x, up(index) - y);
  const indices = selectErrors().map((row) => images.index[row]);
  if (indices.length) openImage(indices.reduce((best, index) => (distance(index) < distance(best) ? index : best)));
}
