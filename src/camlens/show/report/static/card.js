/* The card of one image. */

import { controls } from "./controls.js";
import { asLabel, asPrediction, byId, el, integer, percent, signed } from "./dom.js";
import { className, evidence } from "./evidence.js";
import { paint } from "./heatmap.js";
import { askIfNeeded } from "./live.js";
import { markButtons } from "./marks.js";
import { loadSheet, picture, placeOf } from "./pictures.js";
import { reasons, sentence } from "./reasons.js";
import {
  answers, classNames, data, doubt, errorCount, images, inputSize, judgedModel, models, pictureOf, predicted,
  probability, secondModel,
} from "./schema.js";
import { closeImage, isBesideGallery, view } from "./state.js";
import { trainingImages } from "./training.js";

let drawn = null; // the image whose card was drawn last

export function drawCard() {
  const card = byId("card"), row = images.index.indexOf(view.image);
  askIfNeeded(row);
  if (view.image !== null && row < 0) return; // until the answer is there
  card.hidden = row < 0;
  document.querySelector("main").classList.toggle("open", row >= 0);
  if (row < 0) return;
  const shown = el("canvas", { role: "img", "aria-label": view.image < 0 ? "your picture" : `image ${view.image}` });
  const original = el("figure", {}, shown, el("figcaption", {}, caption(row)));
  const ofModels = models.map((model) => evidence(model, row));
  const focused = card.contains(document.activeElement) && document.activeElement.dataset.control;
  card.replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": "close", onclick: closeImage }, "×"),
    title(row), ...sentence(row).filter(Boolean),
    ...ofModels.flatMap((one, number) => modelViews(one, row, number ? el("span") : original)),
    controls(ofModels[models.indexOf(judgedModel(row))], row), reasons(row) ?? "",
    ...(row < errorCount ? [markButtons(row)] : []),
    el("div", { class: "low" },
      el("div", {}, models.flatMap((model) => probabilities(model, row))), el("div", {}, trainingImages(row))));
  if (focused) card.querySelector(`[data-control="${focused}"]`)?.focus();
  if (view.image !== drawn && !isBesideGallery() && card.getBoundingClientRect().top < 0) card.scrollIntoView();
  drawn = view.image;
  paintAll([{ drawings: [{ canvas: shown, heatMap: {} }] }], row);
  paintAll(ofModels, row);
}

/* Paint what was drawn for each model; what a model is shown of a photo is outlined. */
function paintAll(ofModels, row) {
  const [pictures, number] = pictureOf(row), place = placeOf(pictures, number);
  loadSheet(place.source).then((sheet) => ofModels.forEach(({ drawings }, which) => {
    const seen = { ...place, sheet, window: pictures.windows?.[number][which] };
    for (const { canvas, heatMap } of drawings) paint(canvas, seen, heatMap);
  }));
}

function title(row) {
  const label = images.label[row], name = classNames[predicted(row)], { frames = 1 } = answers.get(row) ?? {};
  const confidence = ` (${percent(probability(judgedModel(row), row, predicted(row)))})`.replace(" %", "\u00a0%");
  let words = ["label ", asLabel(classNames[label]), ", prediction ", asPrediction(name), confidence];
  if (label === null) words = ["prediction ", asPrediction(name), confidence];
  else if (label === predicted(row)) words = ["correct prediction ", asLabel(name), confidence];
  const yours = `your picture ${-view.image}${frames > 1 ? `, the first of its ${frames} frames` : ""}`;
  const doubted = doubt?.[row] === undefined ? "" : `; doubt in the label ${signed(doubt[row])} (from −1 to +1)`;
  const source = view.image < 0 ? yours : `${data.split} image ${view.image}, ${images.file[row]}${doubted}`;
  return el("div", { class: "title" }, el("h2", {}, ...words), el("small", {}, source));
}

/* The size of the picture, and what the network sees of it. */
function caption(row) {
  const [height, width] = answers.get(row)?.size ?? inputSize, [pictures, number] = pictureOf(row);
  const [top, left, bottom, right] = pictures.windows?.[number][0] ?? [];
  if (pictures.windows) {
    const cropped = top > 0 || left > 0 || bottom < 1 || right < 1 ? ", the outlined part of it" : "";
    const size = answers.has(row) ? `, ${width} × ${height}` : "";
    return `the photo${size}, which the network sees at ${inputSize[1]} × ${inputSize[0]}${cropped}`;
  }
  const seen = view.image < 0 ? `, which the network sees at ${inputSize[1]} × ${inputSize[0]}` : "";
  return `the picture, ${width} × ${height}${seen}`;
}

/* What one model predicts, with the picture (or its place) and its heat maps side by side. */
function modelViews({ model, drawings, sentence }, row, first) {
  const c = model.prediction[row];
  const heading = el("h3", { class: "model" },
    el("b", {}, model.name), " predicts ", className(model, row, c), ` (${percent(probability(model, row, c))})`);
  return [
    ...(secondModel ? [heading] : []),
    el("div", { class: secondModel || drawings.length < 3 ? "views" : "views large" },
      first, drawings.map(({ figure }) => figure)),
    sentence,
  ];
}

/* The probabilities that a model gives to the classes. */
function probabilities(model, row) {
  const heading = `Probabilities${secondModel ? ` of ${model.name}` : ""}`, classes = model.classes[row];
  const some = classes.length < classNames.length ? `, ${classes.length} of ${integer(classNames.length)}` : "";
  const kind = (c) => (c === images.label[row] ? "label" : c === model.prediction[row] ? "prediction" : "");
  const bars = classes.map((c, place) => [c, model.probability[row][place]]).sort((a, b) => b[1] - a[1]);
  return [el("h3", {}, heading + some), ...bars.map(([c, fraction]) => el("div", { class: "row" },
    el("span", { title: classNames[c] }, className(model, row, c)),
    el("i", { class: kind(c), style: { width: `${100 * fraction}%` } }),
    el("span", {}, percent(fraction))))];
}
