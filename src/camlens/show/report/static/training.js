/* The training images behind an error: named, and shown large beside it. */

import { asLabel, asNeither, asPrediction, byId, el, percent, signed } from "./dom.js";
import { picture } from "./pictures.js";
import { classNames, errorCount, evidenceOf, firstModel, images, isWrong, pictureOf } from "./schema.js";

const DOUBTED = 0.95; // fraction of the training labels that are doubted less, from which a picture says so

/* Each kind of list with its heading, and what its scores are. */
const KINDS = [
  ["towards", (label, prediction) => ["Most influential training images for the prediction ", asPrediction(prediction)], "loss gradients"],
  ["away", (label) => ["Most influential training images for the label ", asLabel(label)], "loss gradients"],
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
      .map((number, place) => tile(row, training, number, `cosine similarity of the ${of}: ${signed(scores[place])}`));
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
      isDoubted(training, number) ? [el("br"), el("b", {}, "doubtful label")] : []));
}

/* A training image as a button that enlarges it. */
export const enlarging = (row, training, number, score) => el("button", {
  type: "button", class: "enlarge", onclick: () => enlarge(row, training, number, score),
}, picture([training.pictures, number], `training image ${fileName(training.file[number])}, enlarge`));

/* Show a training image large, beside the image of the card. A click on a picture or outside closes the dialog. */
function enlarge(row, training, number, score) {
  const dialog = byId("large"), doubt = training.doubt?.[number];
  const doubted = doubt == null ? "" : `; its label is more doubtful than ${percent(doubt)} of the training labels`;
  const shown = images.index[row] < 0 ? "your picture" : ["this image, label ", asLabel(classNames[images.label[row]])];
  dialog.replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": "close", onclick: () => dialog.close() }, "×"),
    el("h2", { id: "large-title" }, training.file[number]),
    el("p", { class: "key" }, `training image ${training.index[number]}`, score ? `; ${score}` : "", doubted),
    el("div", { class: "pair" },
      el("figure", {}, picture([training.pictures, number], "the training image"),
        el("figcaption", {}, "training image, label ", labelOf(row, training, number))),
      el("figure", {}, picture(pictureOf(row), "the image of the card"), el("figcaption", {}, shown))));
  dialog.onclick = ({ target }) => { if (target.matches("dialog, .picture")) dialog.close(); };
  dialog.showModal();
}
