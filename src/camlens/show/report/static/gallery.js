/* The gallery of the chosen errors. */

import { asLabel, asPrediction, byId, el, integer, percent } from "./dom.js";
import { marks } from "./marks.js";
import { picture } from "./pictures.js";
import {
  classNames, common, doubt, errorCount, images, judgedModel, pictureOf, predicted, probability, words,
} from "./schema.js";
import { selectErrors } from "./selection.js";
import { followChanges, isBesideGallery, openImage, redraw, setView, view } from "./state.js";

const STEP = 120;
const CHOICE = ["which", "label", "prediction", "word", "find"]; // of the errors
let limit = STEP; // tiles that are shown

export function tile(row) {
  const index = images.index[row], label = images.label[row], isCorrect = label === predicted(row);
  const confidence = percent(probability(judgedModel(row), row, predicted(row)));
  const attributes = {
    type: "button", "data-image": index, "aria-current": String(index === view.image), onclick: () => openImage(index),
  };
  return el("button", attributes,
    picture(pictureOf(row), index < 0 ? `your picture ${-index}` : `image ${index}`),
    label === null || isCorrect ? null : el("span", { class: "label" }, classNames[label], marks[index] ? " ✓" : ""),
    el("span", { class: isCorrect ? "label" : "prediction" }, `${classNames[predicted(row)]} ${confidence}`));
}

/* How many there are, and of which kind. */
function heading(count) {
  const { label, prediction, word, group, which } = view;
  const kind = { fixed: "corrected", broken: "broken", both: "misclassified by both" }[which];
  const parts = [`${integer(count)} ${kind ?? (count === 1 ? "error" : "errors")}`];
  if (label !== null && classNames[label] !== undefined) parts.push(", label ", asLabel(classNames[label]));
  if (prediction !== null && classNames[prediction] !== undefined) {
    parts.push(", prediction ", asPrediction(classNames[prediction]));
  }
  if (word) parts.push(`, ${word}`);
  if (common?.groups[group]) parts.push(`, ${common.groups[group].sentence.split(":")[0]}`);
  return parts;
}

export function drawGallery() {
  const rows = selectErrors();
  byId("gallery-title").replaceChildren(...heading(rows.length));
  byId("all").hidden = view.label === null && view.prediction === null && !view.find && !view.word && view.group === null;
  byId("sort").value = view.sort;
  byId("word").value = view.word;
  if (document.activeElement !== byId("find")) byId("find").value = view.find;
  byId("grid").replaceChildren(...rows.slice(0, limit).map(tile));
  byId("more").hidden = rows.length <= limit;
  byId("more").textContent = `show ${integer(Math.min(STEP, rows.length - limit))} more`;
  if (!rows.length) {
    const reason = errorCount ? "No error matches." : "All images are classified correctly.";
    byId("grid").append(el("p", { class: "key" }, reason));
  }
}

/* Open the next of the chosen errors, or the one before it. */
export function openNeighbour(step) {
  const indices = selectErrors().map((row) => images.index[row]);
  if (!indices.length) return;
  const current = indices.indexOf(view.image);
  const next = current < 0 ? 0 : (current + step + indices.length) % indices.length;
  if (next >= limit) limit = Math.ceil((next + 1) / STEP) * STEP;
  openImage(indices[next]);
  if (isBesideGallery()) document.querySelector(`[data-image="${indices[next]}"]`)?.scrollIntoView({ block: "nearest" });
}

/* The words that can be chosen, with the number of errors of each. */
function addWords() {
  const counts = new Map();
  for (const word of words.flat()) counts.set(word, (counts.get(word) ?? 0) + 1);
  byId("words").hidden = !counts.size;
  const options = [...counts].sort((a, b) => b[1] - a[1]);
  byId("word").append(...options.map(([word, n]) => el("option", { value: word }, `${word} (${integer(n)})`)));
}

/* An open card stays among the chosen errors: where it is none of them, the first of them is opened. */
function keepCardAmongErrors(changes) {
  if (view.image < 0 || !Object.keys(changes).some((name) => CHOICE.includes(name))) return {};
  const indices = selectErrors().map((row) => images.index[row]);
  const isFound = view.find && indices.length === 1;
  if (indices.includes(view.image) || (view.image === null && !isFound)) return {};
  return { image: indices[0] ?? null, class: null };
}

export function startGallery() {
  followChanges(keepCardAmongErrors);
  addWords();
  if (doubt) byId("sort").append(el("option", { value: "doubt" }, "doubt in the label"));
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("word").addEventListener("change", (event) => setView({ word: event.target.value }));
  byId("sort").addEventListener("change", (event) => setView({ sort: event.target.value }));
  byId("find").addEventListener("input", (event) => {
    limit = STEP;
    setView({ find: event.target.value });
  });
  byId("all").addEventListener("click", () => {
    byId("find").value = "";
    setView({ label: null, prediction: null, word: "", group: null, find: "" });
  });
  byId("more").addEventListener("click", () => {
    limit += STEP;
    redraw();
  });
}
