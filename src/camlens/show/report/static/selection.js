/* The errors that are chosen, and their order. */

import {
  classNames, common, doubt, errorCount, firstModel, images, isWrong, judgedModel, logit, predicted, probability,
  secondModel, wordsOf,
} from "./schema.js";
import { view } from "./state.js";

/* With two models an image is corrected (fixed), broken or misclassified by both. */
const FILTERS = {
  errors: (row) => isWrong(firstModel, row),
  fixed: (row) => isWrong(firstModel, row) && !isWrong(secondModel, row),
  broken: (row) => !isWrong(firstModel, row) && isWrong(secondModel, row),
  both: (row) => isWrong(firstModel, row) && isWrong(secondModel, row),
};

const SORT_KEYS = { // the smallest first
  confidence: (row) => -probability(judgedModel(row), row, predicted(row)),
  margin: (row) => logit(judgedModel(row), row, images.label[row]) - logit(judgedModel(row), row, predicted(row)),
  loss: (row) => -judgedModel(row).loss[row],
  doubt: (row) => -(doubt?.[row] ?? 0),
  index: (row) => images.index[row],
};

/* The rows of the errors with this label, prediction and word, in this group, found by number or file. */
export function selectErrors({ label, prediction, word, group, find } = view) {
  const filter = FILTERS[view.which] ?? FILTERS.errors, sought = find.trim().toLowerCase();
  const members = group === null || !common?.groups[group] ? null : new Set(common.groups[group].errors);
  const matches = (row) =>
    filter(row)
    && (label === null || images.label[row] === label)
    && (prediction === null || predicted(row) === prediction)
    && (!word || wordsOf(row).includes(word))
    && (!members || members.has(row))
    && (!sought || String(images.index[row]) === sought || images.file[row].toLowerCase().includes(sought));
  const key = SORT_KEYS[view.sort] ?? SORT_KEYS.confidence;
  return errorRows().filter(matches).sort((a, b) => key(a) - key(b) || a - b);
}

export const errorRows = () => [...Array(errorCount).keys()];

/* The classes with the most errors, in their order. */
export function classesWithMostErrors(limit) {
  const errors = new Array(classNames.length).fill(0);
  for (const row of errorRows()) {
    errors[images.label[row]]++;
    errors[predicted(row)]++;
  }
  const order = [...classNames.keys()].sort((a, b) => errors[b] - errors[a] || a - b);
  return order.slice(0, limit).sort((a, b) => a - b);
}
