/* What a model saw in an image: the evidence for two classes, their contrast, and the sentence that adds it up. */

import { colour, rgb } from "./colours.js";
import { asLabel, asNeither, asPrediction, el, signed } from "./dom.js";
import { isChosen } from "./live.js";
import {
  answers, classNames, hasClass, images, isWrong, layersOf, logit, models, predicted, rawMap,
} from "./schema.js";
import { view } from "./state.js";

/* Whether a model predicts a class, or the model that has the image wrong does. */
const isPredicted = (model, row, c) => c === model.prediction[row] || c === predicted(row);

/* A class name in its colour. */
export function className(model, row, c) {
  if (c === images.label[row]) return asLabel(classNames[c]);
  return (isPredicted(model, row, c) ? asPrediction : asNeither)(classNames[c]);
}

function classColour(model, row, c) {
  if (c === images.label[row]) return rgb(colour("label-map"));
  return rgb(colour(isPredicted(model, row, c) ? "prediction-map" : "ink"));
}

/* The class that is compared with the label (where there is none, with the prediction): the one that was chosen, of an
   error the prediction, otherwise the runner-up. */
function comparedClass(model, row, label) {
  const prediction = isWrong(model, row) ? model.prediction[row] : isWrongAnywhere(row) ? predicted(row) : null;
  const fits = (c) => c !== null && c !== label && hasClass(model, row, c);
  return [view.class, prediction, ...model.classes[row]].find(fits);
}
const isWrongAnywhere = (row) => models.some((model) => isWrong(model, row));

const sum = (map) => map.reduce((total, value) => total + value, 0);
const largest = (map) => map.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);

/* The evidence of a model: figures with empty canvases, what is to be painted on these, the sentence, and what the
   controls show. */
export function evidence(model, row) {
  const label = images.label[row] ?? model.prediction[row], layers = layersOf(model, row), last = layers.at(-1);
  const layer = (isChosen(row) && answers.get(row)?.chosen) || (view.depth === "last" ? last : layers[0]);
  const other = comparedClass(model, row, label);
  const pair = isWrongAnywhere(row) ? [other, label] : [label, other];
  const maps = pair.map((c) => rawMap(model, layer, row, c));
  const full = view.scale === "same" ? layer.largest : Math.max(...maps.map(largest));
  const [one, two] = pair.map((c) => rawMap(model, last, row, c));
  const contrast = one.map((value, cell) => value - two[cell]);
  const drawings = [
    ...pair.map((c, number) => classDrawing(model, row, c, { map: maps[number], grid: layer.grid, full })),
    contrastDrawing(model, row, pair, { map: contrast, grid: last.grid, full: largest(contrast) }, last.name),
  ];
  return { model, drawings, sentence: sentence(model, row, pair, sum(contrast)), full, other, layer };
}

function drawing(heatMap, alt, ...caption) {
  const canvas = el("canvas", { role: "img", "aria-label": alt });
  return { canvas, heatMap, figure: el("figure", {}, canvas, el("figcaption", {}, ...caption)) };
}

function classDrawing(model, row, c, heatMap) {
  const none = heatMap.map.every((value) => value <= 0) ? ", no positive evidence" : "";
  return drawing({ ...heatMap, positive: classColour(model, row, c) }, `heat map of the evidence for ${classNames[c]}`,
    "evidence for ", className(model, row, c), el("br"), `logit ${signed(logit(model, row, c))}`, none);
}

function contrastDrawing(model, row, [one, two], heatMap, layerName) {
  const [positive, negative] = [one, two].map((c) => classColour(model, row, c));
  return drawing({ ...heatMap, positive, negative, numbers: true },
    `contrast of ${classNames[one]} and ${classNames[two]}, ${heatMap.grid.join(" by ")} cells`,
    "contrast: evidence for ", className(model, row, one), " minus evidence for ", className(model, row, two), el("br"),
    `in logits, for each cell of ${layerName}`);
}

/* How the cells and what lies behind them add up to the difference of the two logits. */
function sentence(model, row, [one, two], cells) {
  const margin = logit(model, row, one) - logit(model, row, two);
  const strong = (value) => el("b", {}, signed(value));
  return el("p", { class: "sum" },
    "The cells add up to ", strong(cells), model.exact ? ", the bias adds " : ", the layers behind it add ",
    strong(margin - Number(cells.toFixed(2))), ": together ", strong(margin), ", the logit of ",
    className(model, row, one), " minus that of ", className(model, row, two), ".");
}
