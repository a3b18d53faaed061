/* All images on a plane: the errors, and the classes of the chosen cell in their colours. */

import { colour } from "./colours.js";
import { byId, integer, percent } from "./dom.js";
import { bytes, data, images, plane } from "./schema.js";
import { selectErrors } from "./selection.js";
import { openImage, view } from "./state.js";

const points = plane && new Uint16Array(bytes(plane.points)); // across and up, for each image of the data
const labels = plane && new Uint16Array(bytes(plane.label));
const MARGIN = 0.02; // of the side

/* Where an image lies, as fractions across and up, before the margin. */
const across = (index) => points[2 * index] / 65535;
const up = (index) => points[2 * index + 1] / 65535;

export function drawPlane() {
  if (!points) return;
  byId("plane-section").hidden = false;
  const canvas = byId("plane"), side = Math.round(canvas.clientWidth * devicePixelRatio) || 600;
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d"), inside = 1 - 2 * MARGIN;
  const circle = (index, radius) => {
    const x = (MARGIN + inside * across(index)) * side, y = (1 - MARGIN - inside * up(index)) * side;
    pen.beginPath();
    pen.arc(x, y, radius * devicePixelRatio, 0, 7);
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
  if (view.image >= 0 && view.image !== null) {
    pen.strokeStyle = colour("ink");
    pen.lineWidth = 2 * devicePixelRatio;
    circle(view.image, 8);
    pen.stroke();
  }
  const choice = some ? " of this choice" : "";
  byId("plane-note").textContent = `The two first principal components of the features of all ${integer(data.n)} ` +
    `images (${percent(plane.share)} of their variance); strong: the errors${choice}. Click near one to open it.`;
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
