/* The training images behind an error: named, and shown large beside it. */

import { asLabel, asNeither, asPrediction, byId, el, percent, signed } from "./dom.js";
import { picture } from "./pictures.js";
import { classNames, errorCount, evidenceOf, firstModel, images, isWrong, pictureOf } from "./schema.js";

const DOUBTED = 0.95; // fraction of the training labels that are doubted less, from which a picture says so

/* Each kind of list with its heading, and what its scores are. */
const KINDS = [
  ["towards", (label, prediction) => ["Training images that pulled towards ", asPrediction(prediction)], "gradient"],
  ["away", (label) => ["and towards ", asLabel(label)], "gradient"],
  ["nearest", () => ["Nearest training images"], "features"],
];

/* The last part of a path. */
const fileName = (path) => path.split(/[\\/]/).at(-1);

/* The lists of an image, as figures whose pictures open large. */
export function trainingImages(row) {
  const [training, trainingRow] = evidenceOf(row);
  if (!training || (row < errorCount && !isWrong(firstModel, row))) return [];
  const names = [images.label[row], firstModel.prediction[row]].map((c) => classNames[c]);
  return KINDS.filter(([kind]) => training.lists[kind]).map(([kind, heading, of]) => {
    const scores = training.scores[kind][trainingRow];
    const tiles = training.lists[kind][trainingRow].filter((number) => number >= 0)
      .map((number, place) => tile(row, training, number, `cosine of its ${of} with that of the error: ${signed(scores[place])}`));
    return el("div", { class: "evidence", "data-kind": kind }, el("h3", {}, ...heading(...names)), el("div", {}, tiles));
  });
}

function labelOf(row, training, number) {
  const c = training.label[number];
  const colour = { [firstModel.prediction[row]]: asPrediction, [images.label[row]]: asLabel }[c] ?? asNeither;
  return colour(classNames[c]);
}

const isDoubted = (training, number) => (training.doubt?.[number] ?? 0) >= DOUBTED;

function tile(row, training, number, score) {
  const file = training.file[number];
  return el("figure", { title: file },
    enlarging(row, training, number, score),
    el("figcaption", {}, labelOf(row, training, number), el("br"), fileName(file),
      isDoubted(training, number) ? [el("br"), el("b", {}, "label doubted")] : []));
}

/* A training image as a button that shows it large. */
export const enlarging = (row, training, number, score) => el("button", {
  type: "button", class: "enlarge", onclick: () => enlarge(row, training, number, score),
}, picture([training.pictures, number], `training image ${fileName(training.file[number])}, shown large when pressed`));

function enlarge(row, training, number, score) {
  const dialog = byId("large"), index = images.index[row];
  const doubt = training.doubt?.[number];
  const error = el("figure", {}, picture(pictureOf(row), "the error"), el("figcaption", {},
    index < 0 ? "your picture" : ["this image, ", asLabel(classNames[images.label[row]])]));
  const known = el("figure", {}, picture([training.pictures, number], "the training image"), el("figcaption", {},
    "training image, ", labelOf(row, training, number), doubt === undefined || doubt === null ? "" :
      `; its label is more doubtful than ${percent(doubt)} of the training labels`));
  dialog.replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": "close", onclick: () => dialog.close() }, "×"),
    el("h2", { id: "large-title" }, training.file[number]),
    el("div", { class: "pair" }, error, known),
    el("p", { class: "key" }, `Number ${training.index[number]} of the training images`, score ? `; ${score}.` : "."));
  dialog.showModal();
}
