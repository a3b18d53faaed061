/* Heat maps: sampling, colouring and painting a raw map. */

import { colour, colourMap, interpolate } from "./colours.js";
import { signed } from "./dom.js";
import { view } from "./state.js";

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/* A map (h, w) at (height, width): bilinear with half-pixel centres, or the cells themselves. */
export function upsample(map, [h, w], height, width, smooth) {
  const out = new Float32Array(height * width);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const v = clamp((y + 0.5) * h / height - 0.5, 0, h - 1), u = clamp((x + 0.5) * w / width - 0.5, 0, w - 1);
    if (!smooth) {
      out[y * width + x] = map[Math.round(v) * w + Math.round(u)];
      continue;
    }
    const top = Math.floor(v), left = Math.floor(u), p = v - top, q = u - left;
    const bottom = Math.min(h - 1, top + 1), right = Math.min(w - 1, left + 1);
    const upper = map[top * w + left] * (1 - q) + map[top * w + right] * q;
    const lower = map[bottom * w + left] * (1 - q) + map[bottom * w + right] * q;
    out[y * width + x] = upper * (1 - p) + lower * p;
  }
  return out;
}

/* A picture on a canvas and, where there is a map, the map on it.
   picture: { sheet, top, left, height, width }, and where it is not all that the network is shown, `window`: the part
   that is, [top, left, bottom, right] in 0..1, on which the map lies and which is outlined; heatMap: { map, grid, full, positive, negative, numbers }, where `full` is the value
   with full colour, and `numbers` writes each cell's value into it. */
export function paint(canvas, picture, { map, grid, full, positive, negative, numbers }) {
  const { height: h, width: w } = picture, zoom = Math.max(1, Math.round(320 / Math.max(h, w)));
  const height = canvas.height = h * zoom, width = canvas.width = w * zoom;
  canvas.style.aspectRatio = `${w} / ${h}`;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.imageSmoothingEnabled = false;
  pen.drawImage(picture.sheet, picture.left, picture.top, w, h, 0, 0, width, height);
  const [top, left, bottom, right] = (picture.window ?? [0, 0, 1, 1])
    .map((edge, side) => Math.round(edge * (side % 2 ? width : height)));
  if (map) {
    const drawn = pen.getImageData(0, 0, width, height);
    const inner = upsample(map, grid, bottom - top, right - left, view.grid === "smooth" && !numbers);
    const values = new Float32Array(height * width).fill(NaN); // outside there is no evidence
    for (let y = Math.max(0, top); y < Math.min(height, bottom); y++) {
      for (let x = Math.max(0, left); x < Math.min(width, right); x++) {
        values[y * width + x] = inner[(y - top) * (right - left) + x - left];
      }
    }
    blend(drawn.data, values, { full, positive, negative, stops: numbers ? null : colourMap(view.colours) });
    pen.putImageData(drawn, 0, 0);
    if (numbers && grid[0] * grid[1] <= 64) writeNumbers(pen, map, grid, { top, left, bottom, right });
  }
  if (top > 0 || left > 0 || bottom < height || right < width) outline(pen, top, left, bottom, right);
}

/* A light line with a dark edge, which shows on any ground. */
function outline(pen, top, left, bottom, right) {
  for (const [name, lineWidth] of [["number-outline", 4], ["white", 2]]) {
    pen.strokeStyle = colour(name);
    pen.lineWidth = lineWidth;
    pen.strokeRect(left + 2, top + 2, right - left - 4, bottom - top - 4);
  }
}

/* Blend the colours of values with pixels, which turn grey, as in the figures (camlens.maps.overlay). `stops` are those of a colour map, or null for the
   colours of positive and negative values. */
function blend(pixels, values, { full, positive, negative, stops }) {
  for (let k = 0; k < values.length; k++) {
    const value = clamp(values[k] / full, -1, 1), side = value > 0 ? positive : negative;
    const over = Number.isNaN(value) ? null : stops ? interpolate(stops, Math.max(0, value)) : side;
    const alpha = (stops ? 0.8 : side ? Math.abs(value) : 0) * view.strength / 100;
    const grey = 0.299 * pixels[4 * k] + 0.587 * pixels[4 * k + 1] + 0.114 * pixels[4 * k + 2];
    for (let channel = 0; channel < 3; channel++) {
      pixels[4 * k + channel] = over ? grey * (1 - alpha) + over[channel] * alpha : grey;
    }
  }
}

/* The cells of a map with their values. */
function writeNumbers(pen, map, [h, w], { top, left, bottom, right }) {
  const cellHeight = (bottom - top) / h, cellWidth = (right - left) / w;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  pen.font = `600 ${Math.min(cellWidth / 3.9, cellHeight / 2.4)}px Inter, system-ui, sans-serif`;
  pen.fillStyle = colour("white");
  for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) {
    pen.lineWidth = 1;
    pen.strokeStyle = colour("cell-border");
    pen.strokeRect(left + j * cellWidth, top + i * cellHeight, cellWidth, cellHeight);
    const text = signed(map[i * w + j]), middle = [left + (j + 0.5) * cellWidth, top + (i + 0.5) * cellHeight];
    pen.lineWidth = cellWidth / 18;
    pen.strokeStyle = colour("number-outline");
    pen.strokeText(text, ...middle);
    pen.fillText(text, ...middle);
  }
}
