/* What errors have in common, and patches that give a class away. */

import { byId, el } from "./dom.js";
import { picture } from "./pictures.js";
import { classNames, common } from "./schema.js";
import { setView, view } from "./state.js";

/* The groups as buttons that choose their errors, and the shortcuts with their pictures. */
export function drawGroups() {
  if (!common) return;
  byId("common").hidden = false;
  byId("groups").replaceChildren(...common.groups.map(({ sentence, meaning }, number) => {
    const chosen = view.group === number;
    const choose = () => setView({ group: chosen ? null : number, image: null });
    return el("li", {}, el("button", { type: "button", title: meaning, "aria-pressed": String(chosen), onclick: choose },
      sentence.replaceAll(" %", "\u00a0%")));
  }));
  byId("tried-groups").textContent = common.tried;
  byId("shortcuts").replaceChildren(...common.shortcuts.map(shortcut));
  byId("tried-marks").textContent = common.marks;
}

function shortcut({ sentence, label, own, covered, turned }) {
  const name = classNames[label];
  const row = (numbers, text) => (numbers.length ? el("figure", {},
    el("div", { class: "strip" }, numbers.map((number) => picture([common.pictures, number], text))),
    el("figcaption", {}, text)) : null);
  return el("div", { class: "shortcut" }, el("p", {}, sentence.replaceAll(" %", "\u00a0%")),
    row(own, `${name} with the patch`), row(covered, "the same, patch covered"), row(turned, `patch pasted in: prediction ${name}`));
}
