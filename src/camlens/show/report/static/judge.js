/* The labels of images drawn at random, judged by the user, who sees a picture and its label and nothing else. */

import { asLabel, byId, el, integer } from "./dom.js";
import { judge } from "./judgements.js";
import { judged, markBlind, marks } from "./marks.js";
import { picture } from "./pictures.js";
import { classNames, imageAt, sample } from "./schema.js";
import { redraw } from "./state.js";

const ROUND = 20; // images
let round = [], place = 0;

const isDone = (index) => judged[index] && marks[index];

export function startJudging() {
  byId("judge").addEventListener("click", () => {
    round = sample.drawn.filter((index) => !isDone(index)).slice(0, ROUND);
    place = 0;
    ask();
    byId("blind").showModal();
    byId("blind").querySelector("[autofocus]").focus();
  });
  byId("blind").addEventListener("close", () => {
    redraw();
    byId("judge").focus();
  });
}

/* Show the picture at `place` in the round with its label, or end the round. */
function ask() {
  const dialog = byId("blind"), index = round[place];
  if (index === undefined) {
    dialog.close();
    return;
  }
  const { label, prediction, source } = imageAt(index);
  const decide = (value) => {
    markBlind(index, value);
    place++;
    ask();
  };
  const button = (text, onclick, attributes = {}) =>
    el("button", { type: "button", class: "plain", onclick, ...attributes }, text);
  const isOther = button("no, it is", () => decide(`wrong:${classNames[other.value]}`), { disabled: "" });
  const other = el("select", { "aria-label": "the correct class", onchange: () => { isOther.disabled = !other.value; } },
    el("option", { value: "" }, "…"),
    classNames.map((name, c) => (c === label ? null : el("option", { value: c }, name))));
  const before = place ? button("back", () => { place--; ask(); }) : null;
  dialog.replaceChildren(
    el("p", { class: "key" }, `${place + 1} of ${round.length}`),
    picture(source, "the picture to judge"),
    el("h2", { id: "blind-title" }, "Is the label ", asLabel(classNames[label]), " correct?"),
    el("div", { class: "decide" },
      button("yes", () => decide(label === prediction ? "right" : "real"), { autofocus: "" }), isOther, other),
    el("div", { class: "decide" },
      button("ambiguous", () => decide("ambiguous")), button("a duplicate, leave out", () => decide("duplicate"))),
    el("div", { class: "decide" }, before, button("stop", () => dialog.close())));
  dialog.querySelector("[autofocus]").focus();
}

/* What the judgements made so far say. */
export function drawJudgement() {
  const done = sample.drawn.filter(isDone), left = sample.drawn.length - done.length;
  byId("judge").textContent = left ? `judge ${Math.min(ROUND, left)}${done.length ? " more" : ""}` : "all are judged";
  byId("judge").disabled = !left;
  byId("judgement").hidden = !done.length;
  if (!done.length) return;
  const said = judge(Object.fromEntries(done.map((index) => [index, marks[index]])));
  byId("judgement").replaceChildren(
    el("p", {}, `${integer(done.length)} judged.`), ...said.map((text) => el("p", {}, text.replaceAll(" %", "\u00a0%"))));
}
