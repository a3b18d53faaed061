/* The model as a whole: the head of the page, its classes, and its calibration. */

import { byId, el, fixed, integer, svg, wholePercent } from "./dom.js";
import { classNames, data, errorCount, findings, firstModel, models, secondModel } from "./schema.js";

export function drawHead() {
  byId("result").textContent = `${models.map(result).join("; ")}.`;
  byId("findings").append(...findings.map((text) => el("li", {}, text.replaceAll(" %", "\u00a0%"))));
  byId("setup").append(...setup().map((text) => el("li", {}, text)));
}

/* How many images a model misclassifies, as a sentence; `number` is its place among the models. */
function result({ name, errors, accuracy, interval }, number) {
  const images = number ? "" : ` of ${integer(data.n)} ${data.split} images`;
  const [estimate, low, high] = [accuracy, ...interval].map((fraction) => fixed(100 * fraction, 2));
  return `${name} misclassifies ${errors ? integer(errors) : "none"}${images}: accuracy ${estimate}\u00a0% ` +
    `(95\u00a0% interval ${low} to ${high}\u00a0%)`;
}

/* What was evaluated, and how the maps were made. */
function setup() {
  const maps = firstModel.layers.map((layer) => layer.name).join(" and ");
  return [
    ...models.map(({ name, parameters, input }) => `${name}: ${integer(parameters)} parameters, input ${input}`),
    `${data.name}: ${integer(data.n)} ${data.split} images of ${data.size.replace("x", "×")}, ${classNames.length} classes`,
    ...(errorCount ? [`heat maps: HiResCAM at ${maps}, in logits`] : []),
  ];
}

/* Accuracy and precision of each class or, of many, of the hardest. */
export function drawClasses() {
  const { perClass } = firstModel;
  const hardest = perClass.filter(([, n]) => n).sort((a, b) => a[2] - b[2]).slice(0, 20);
  const listed = classNames.length <= 20 ? perClass : hardest;
  const bar = (kind, fraction) => el("i", { class: kind, style: { width: `${100 * (fraction ?? 0)}%` } });
  byId("classes").append(...listed.map(([c, , accuracy, precision]) => el("div", { class: "row" },
    el("span", { title: classNames[c] }, classNames[c]),
    el("div", {}, bar("label", accuracy), bar("prediction", precision)),
    el("span", {}, accuracy === null ? "none" : `${fixed(100 * accuracy, 1)} %`))));
  if (listed.length < classNames.length) {
    byId("classes").append(el("p", { class: "key" }, `The ${listed.length} of ${integer(classNames.length)} classes with the lowest accuracy.`));
  }
}

/* The reliability diagram: accuracy by confidence. */
export function drawCalibration() {
  const { reliability } = firstModel, [side, left, top] = [250, 38, 6];
  const x = (fraction) => left + side * fraction, y = (fraction) => top + side * (1 - fraction);
  const inWords = reliability.map(({ confidence, accuracy, n }) =>
    `confidence ${wholePercent(confidence)}: ${wholePercent(accuracy)} of ${n} correct`);
  const chart = svg("svg", {
    viewBox: "0 0 330 296", role: "img", "aria-label": `Accuracy by confidence. ${inWords.join("; ")}`,
  });
  const line = (x1, y1, x2, y2, style) => svg("line", { x1: x(x1), y1: y(y1), x2: x(x2), y2: y(y2), ...style });
  for (const fraction of [0, 0.5, 1]) chart.append(
    line(0, fraction, 1, fraction, { stroke: "var(--line)" }),
    svg("text", { x: left - 6, y: y(fraction) + 4, "text-anchor": "end" }, `${100 * fraction} %`),
    svg("text", { x: x(fraction), y: top + side + 16, "text-anchor": "middle" }, `${100 * fraction} %`));
  chart.append(line(0, 0, 1, 1, { stroke: "var(--soft)", "stroke-dasharray": "2 4" }));
  const largest = Math.max(...reliability.map((bin) => bin.n));
  for (const { confidence, accuracy, n } of reliability) chart.append(
    line(confidence, confidence, confidence, accuracy, { stroke: "var(--soft)", "stroke-width": 1 }),
    svg("circle", { cx: x(confidence), cy: y(accuracy), r: 2 + 6 * Math.sqrt(n / largest), fill: "var(--ink)" }));
  chart.append(svg("text", { x: x(0.5), y: top + side + 34, "text-anchor": "middle" }, "confidence"));
  const key = "Height: accuracy of the images with this confidence; size: number of images. On the dotted line, accuracy equals confidence.";
  const text = firstModel.calibration;
  byId("calibration").append(chart, el("p", { class: "key" }, key),
    el("p", { class: "key" }, `${text[0].toUpperCase()}${text.slice(1)}.`));
}
