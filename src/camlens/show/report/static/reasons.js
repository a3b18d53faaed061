/* The edits of an error: one sentence, pictures of the mildest edits that correct it, and of the covered cell. */

import { asLabel, byId, el, fixed, percent, wholePercent } from "./dom.js";
import { picture } from "./pictures.js";
import { classNames, evidenceOf, experiments, images, sentences, wordsOf } from "./schema.js";
import { enlarging } from "./training.js";

/* The sentence and the words of an error of the first model; nothing for other images. */
export const sentence = (row) => (row < sentences.length ? [
  el("p", { class: "sentence" }, sentences[row].replaceAll(" %", "\u00a0%")),
  wordsOf(row).length ? el("p", { class: "words" }, wordsOf(row).map((word) => el("span", {}, word))) : null,
] : []);

/* The pictures behind it. */
export function reasons(row) {
  if (row >= sentences.length) return null;
  const figures = [...duplicates(row), ...(experiments ? [...edits(row), ...places(row)] : [])];
  return figures.length ? el("div", { class: "reasons" }, figures, others(row)) : null;
}

const figure = (shown, alt, ...caption) =>
  el("figure", {}, picture(shown, alt), el("figcaption", {}, ...caption));

function duplicates(row) {
  const [training] = evidenceOf(row), number = training?.lists.duplicate?.[row]?.[0] ?? -1;
  if (number < 0) return [];
  const name = classNames[training.label[number]];
  return [el("figure", {}, enlarging(row, training, number),
    el("figcaption", {}, "near-duplicate among the training images, label ", el("b", {}, name)))];
}

/* The mildest edits that correct it, each with how often it corrects errors and changes matched correct images. */
function edits(row) {
  return experiments.shown[row].map(([place, shown]) => {
    const { name, errors, matched, reason } = experiments.rates[experiments.edits[row][place]];
    const rates = `corrects ${wholePercent(errors)} of the errors, changes ${wholePercent(matched)} of equally uncertain correct images`;
    return figure([experiments.pictures, shown], `the picture, ${name}`,
      `${name}: `, asLabel(classNames[images.label[row]]), ` ${percent(experiments.probability[row][place])}`.replace(" %", "\u00a0%"),
      el("small", reason ? { class: "reason" } : {}, rates));
  });
}

/* The cell with the largest contrast, covered. */
function places(row) {
  const place = experiments.places[row];
  if (!place) return [];
  const { fall, rank, fills } = place, moved = `${fall < 0 ? "increases" : "decreases"} by ${fixed(Math.abs(fall), 2)} logits`;
  const corrected = [asLabel(classNames[images.label[row]]), ` if filled with ${fills.join(", ")}`];
  return [figure([experiments.pictures, place.picture], "the picture, with the cell covered",
    "covered where the contrast is largest: ", ...(fills.length ? corrected : ["still incorrect"]),
    el("small", {}, `the margin ${moved}, rank ${rank} of 16 cells`))];
}

function others(row) {
  const seen = new Set(experiments?.shown[row].map(([place]) => place));
  const more = experiments?.edits[row].filter((_, place) => !seen.has(place)) ?? [];
  if (!more.length) return null;
  return el("details", {}, el("summary", {}, `corrected by ${more.length} more`),
    el("p", { class: "key" }, more.map((edit) => experiments.rates[edit].name).join("; ")));
}

/* How often each edit corrects errors, and changes matched correct images. */
export function drawExperiments() {
  if (!experiments) return;
  byId("experiments").hidden = false;
  byId("kinds").append(table(experiments.kinds));
  byId("rates").append(table(experiments.rates));
  byId("tried").textContent = experiments.note;
}

function table(rates) {
  const head = ["edit", "errors corrected", "correct images changed", "difference"].map((text) => el("th", { scope: "col" }, text));
  const points = (fraction) => {
    const text = fixed(Math.abs(100 * fraction), 0);
    return text === "0" ? text : (fraction < 0 ? "−" : "+") + text;
  };
  return el("table", { class: "rates" }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rates.map((rate) =>
    el("tr", rate.reason ? { class: "reason" } : {},
      el("th", { scope: "row" }, rate.name), el("td", {}, wholePercent(rate.errors)), el("td", {}, wholePercent(rate.matched)),
      el("td", {}, `${points(rate.difference)} (${rate.interval.map(points).join(" to ")})`)))));
}
