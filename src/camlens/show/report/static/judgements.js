/* What marks on images drawn at random say of all labels, with exact intervals: camlens.analyse.labels.judgements, in the page. */

import { fixed, integer, whole } from "./dom.js";
import { classNames, data, imageAt, firstModel, sample } from "./schema.js";

const WRONG = "wrong:", LEFT_OUT = ["ambiguous", "duplicate"];

/* The exact interval of a proportion by Clopper and Pearson: its ends are the ends of what a binomial test would not reject. */
export function clopperPearson(successes, trials, level = 0.95) {
  const logs = [0]; // of the number of ways to have k successes
  for (let k = 1; k <= trials; k++) logs.push(logs[k - 1] + Math.log(trials - k + 1) - Math.log(k));
  const atLeast = (count, p) => logs.slice(count).reduce((total, log, k) =>
    total + Math.exp(log + (count + k) * Math.log(p) + (trials - count - k) * Math.log1p(-p)), 0);
  const solve = (count, probability) => {
    let low = 0, high = 1;
    for (let step = 0; step < 60; step++) {
      const middle = (low + high) / 2;
      if (atLeast(count, middle) < probability) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  };
  const tail = (1 - level) / 2;
  return [successes ? solve(successes, tail) : 0, successes < trials ? solve(successes + 1, 1 - tail) : 1];
}

function rateInWords([count, of]) {
  if (!of) return "none of 0";
  const [low, high] = clopperPearson(count, of).map((end) => fixed(100 * end, 1));
  return `${integer(count)} of ${integer(of)} (${low} to ${high} %)`;
}

/* The proportion over strata of these sizes, and an interval of 95 % or more. */
function weighted(rates, sizes) {
  const ends = rates.map(([count, of]) => clopperPearson(count, of, 1 - 0.05 / rates.length));
  const mean = (values) => values.reduce((sum, value, k) => sum + sizes[k] * value, 0) / data.n;
  return [mean(rates.map(([count, of]) => count / of)), mean(ends.map(([low]) => low)), mean(ends.map(([, high]) => high))];
}

/* Sentences on all labels, from marks by index of images that were drawn at random. */
export function judge(marks) {
  const kept = Object.entries(marks).filter(([, mark]) => !LEFT_OUT.includes(mark)).map(([index, mark]) => {
    const { label, prediction } = imageAt(Number(index)), isWrong = mark.startsWith(WRONG);
    const truth = isWrong ? mark.slice(WRONG.length) : classNames[label];
    const isDoubted = sample.doubted?.[sample.drawn.indexOf(Number(index))];
    return { isError: label !== prediction, isWrong, isDoubted, isRight: truth === classNames[prediction] };
  });
  const strata = [true, false].map((kind) => kept.filter(({ isError }) => isError === kind));
  const count = (some, key) => [some.filter((image) => image[key]).length, some.length];
  const wrong = strata.map((stratum) => count(stratum, "isWrong"));
  const said = [`Wrong labels: ${rateInWords(wrong[0])} of the marked errors, ${rateInWords(wrong[1])} of the marked correct images.`];
  if (!sample.doubted) said.push("Doubtful labels are not known without a second opinion (--opinion).");
  else {
    const rate = rateInWords(count(kept.filter(({ isDoubted }) => isDoubted), "isWrong"));
    said.push(`Wrong labels among the marked images whose label is doubted: ${rate}.`);
  }
  if (!strata.every((stratum) => stratum.length)) {
    const kind = strata[0].length ? "correct images" : "errors";
    return [...said, `No ${kind} are marked, so the corrected accuracy is not known: marking only errors can only increase it. ` +
      "Mark images drawn at random, including correct ones."];
  }
  const sizes = [firstModel.errors, data.n - firstModel.errors];
  const [labels, fewest, most] = weighted(wrong, sizes).map((share) => integer(whole(data.n * share)));
  const right = weighted(strata.map((stratum) => count(stratum, "isRight")), sizes);
  const [accuracy, low, high] = right.map((share) => fixed(100 * share, 2));
  return [...said, `Estimate for all images, if these were drawn at random: ${labels} wrong labels (${fewest} to ${most}); ` +
    `accuracy with corrected labels ${accuracy} % (${low} to ${high}).`];
}
