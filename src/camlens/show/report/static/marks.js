/* Marks of images, kept by the browser for this network and these images. */

import { byId, el, integer } from "./dom.js";
import { classNames, imageAt, images, reportId } from "./schema.js";
import { redraw } from "./state.js";

const KEY = `camlens ${reportId}`;

function stored(key) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}
export const marks = stored(KEY); // by index of the image
export const judged = stored(`${KEY} judged`); // true by index of images that were drawn at random and judged blind

/* Mark an image, or take its mark away. */
function mark(index, value) {
  if (value === null || marks[index] === value) delete marks[index];
  else marks[index] = value;
  store();
  redraw();
}

/* Mark an image that was judged blind. */
export function markBlind(index, value) {
  marks[index] = value;
  judged[index] = true;
  store();
}

function store() {
  try {
    localStorage.setItem(KEY, JSON.stringify(marks));
    localStorage.setItem(`${KEY} judged`, JSON.stringify(judged));
  } catch {
    // a private window: they last as long as the page
  }
}

/* The buttons that mark an error. */
export function markButtons(row) {
  const index = images.index[row], current = marks[index] ?? "";
  const button = (value, text) => el("button", {
    type: "button", class: "plain", "aria-pressed": String(current === value), "data-control": value,
    onclick: () => mark(index, value),
  }, text);
  const option = (name) => el("option", {
    value: `wrong:${name}`, ...(current === `wrong:${name}` ? { selected: "" } : {}),
  }, `a wrong label: ${name}`);
  return el("div", { class: "decide" }, "This error is",
    el("select", {
      "aria-label": "a wrong label: it is …", "data-control": "wrong",
      onchange: (event) => mark(index, event.target.value || null),
    },
    el("option", { value: "" }, "a wrong label: it is …"),
    classNames.map((name, c) => (c === images.label[row] ? null : option(name)))),
    button("ambiguous", "ambiguous"), button("duplicate", "a duplicate, leave out"), button("real", "a model error"));
}

export function drawMarks() {
  const count = Object.keys(marks).length;
  byId("marks").hidden = !count;
  byId("marked").textContent = `${integer(count)} marked`;
}

const quote = (text) => (/[",\r\n]/.test(text) ? `"${String(text).replaceAll('"', '""')}"` : String(text));

function saveAsCsv() {
  const rows = Object.keys(marks).map(Number).map((index) => {
    const { file, label, prediction } = imageAt(index);
    return [index, file, classNames[label], classNames[prediction], marks[index], judged[index] ? "yes" : "no"];
  });
  const lines = [["index", "path", "label", "prediction", "mark", "drawn"], ...rows].map((row) => row.map(quote).join(","));
  const file = new Blob([lines.join("\n") + "\n"], { type: "text/csv" });
  const link = el("a", { href: URL.createObjectURL(file), download: "marks.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

export const startMarks = () => byId("export").addEventListener("click", saveAsCsv);
