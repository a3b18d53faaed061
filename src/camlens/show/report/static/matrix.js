/* The confusion matrix, whose cells choose the errors that are shown. */

import { cellStyle } from "./colours.js";
import { byId, choice, el, integer } from "./dom.js";
import { classNames, firstModel, images, predicted, secondModel } from "./schema.js";
import { classesWithMostErrors, selectErrors } from "./selection.js";
import { setView, view } from "./state.js";

const LARGEST = 20; // classes
const classes = classesWithMostErrors(LARGEST);

const isPressed = (label, prediction) => view.label === label && view.prediction === prediction;
const press = (label, prediction) =>
  setView(isPressed(label, prediction) ? { label: null, prediction: null } : { label, prediction });

const button = (label, prediction, text, name, style = {}) => el("button", {
  type: "button", onclick: () => press(label, prediction), "aria-label": name,
  "aria-pressed": isPressed(label, prediction), tabindex: "-1", style, title: name,
}, text);

/* How many errors there are of each label and prediction, as a map from both; with a word, of the listed ones. */
function countErrors() {
  const counts = new Map();
  if (!secondModel && !view.word) {
    for (const [label, prediction, errors] of firstModel.wrong) counts.set(`${label} ${prediction}`, errors);
    return counts;
  }
  for (const row of selectErrors({ label: null, prediction: null, word: view.word, find: "" })) {
    const key = `${images.label[row]} ${predicted(row)}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

function cell(label, prediction, errors, most) {
  if (label === prediction) {
    const correct = firstModel.right[label];
    return el("td", {}, el("span", { title: `${classNames[label]}: ${integer(correct)} correct` }, String(correct)));
  }
  if (!errors) return el("td");
  const count = `${integer(errors)} ${errors === 1 ? "error" : "errors"}`;
  const name = `label ${classNames[label]}, prediction ${classNames[prediction]}: ${count}`;
  const style = cellStyle(0.08 + 0.74 * Math.sqrt(errors / most));
  return el("td", {}, button(label, prediction, String(errors), name, style));
}

function matrixTable() {
  const counts = countErrors(), most = Math.max(1, ...counts.values());
  const ofPrediction = (c) => button(null, c, classNames[c], `all with prediction ${classNames[c]}`);
  const ofLabel = (c) => button(c, null, classNames[c], `all with label ${classNames[c]}`);
  const head = el("tr", {},
    el("td", { class: "names" }), classes.map((c) => el("th", { scope: "col" }, ofPrediction(c))));
  const rows = classes.map((label) => el("tr", {},
    el("th", { scope: "row" }, ofLabel(label)),
    classes.map((prediction) => cell(label, prediction, counts.get(`${label} ${prediction}`), most))));
  const name = `matrix${classes.length > 12 ? " small" : ""}`;
  return el("table", { class: name, "aria-labelledby": "matrix-title" }, el("thead", {}, head), el("tbody", {}, rows));
}

/* With two models: which errors the matrix is of. */
const comparison = () => el("div", { class: "comparison" }, choice(
  "which", [["fixed", `corrected by ${secondModel.name}`], ["broken", "broken"], ["both", "misclassified by both"]], view.which,
  (which) => setView({ label: null, prediction: null, which })));

export function drawMatrix() {
  const table = matrixTable(), focused = document.activeElement;
  const focusedName = focused?.closest?.(".matrix") && focused.getAttribute("aria-label");
  byId("matrix").replaceChildren(...(secondModel ? [comparison()] : []), table);
  const buttons = [...table.querySelectorAll("button")];
  (buttons.find((one) => one.ariaPressed === "true") ?? buttons[0])?.setAttribute("tabindex", "0");
  if (focusedName) buttons.find((one) => one.getAttribute("aria-label") === focusedName)?.focus();
  if (classes.length < classNames.length) {
    table.after(el("p", { class: "key" }, `The ${classes.length} of ${integer(classNames.length)} classes with the ` +
      "most errors; find others by name among the classes below."));
  }
}

/* Arrows move the focus to the next button in their direction. */
export function moveFocus(event) {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = event.target.closest("td, th");
  if (!step || !from) return;
  event.preventDefault();
  event.stopPropagation();
  const rows = [...byId("matrix").querySelectorAll("tr")];
  const cellAt = (row, column) => rows[row]?.cells[column];
  let row = rows.indexOf(from.parentElement), column = from.cellIndex;
  do {
    row += step[0];
    column += step[1];
  } while (cellAt(row, column) && !cellAt(row, column).querySelector("button"));
  const next = cellAt(row, column)?.querySelector("button");
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
