/* Asking the network, where the page is served. Pictures of the visitor have negative numbers. */

import { byId } from "./dom.js";
import { tile } from "./gallery.js";
import { addAnswer, answers, classNames, data, errorCount, firstModel, hasClass, images, live } from "./schema.js";
import { closeImage, openImage, redraw, view } from "./state.js";

const uploads = new Map(); // files by number
const ATTEMPTS = 5;
let pending = "", refused = ""; // questions

const question = () => JSON.stringify([view.image, view.layer, view.method, view.class]);
const isClassMissing = (row) =>
  view.class !== null && view.class in classNames && (row < 0 || !hasClass(firstModel, row, view.class));

/* Whether a layer, method or class is chosen that the page itself does not hold. */
export const isChosen = (row) => Boolean(view.layer || view.method || isClassMissing(row));

/* Whether what is to be shown is not there; -1 for an image without a row. */
function isUnanswered(row) {
  if (!live || pending === question() || refused === question()) return false;
  const { layer, method } = answers.get(row) ?? { layer: "", method: "" };
  return row < 0 || isClassMissing(row) || (isChosen(row) && (layer !== view.layer || method !== view.method));
}

export function askIfNeeded(row) {
  if (view.image !== null && isUnanswered(row)) ask(view.image);
}

async function ask(index) {
  const { layer, method } = view, status = byId("answer"), mine = pending = question();
  const query = new URLSearchParams({ layer, method, class: view.class === null ? "" : classNames[view.class] });
  if (!uploads.has(index)) query.set("image", index);
  status.textContent = "computing …";
  const answer = await post(query, uploads.get(index));
  if (pending === mine) pending = "";
  status.textContent = answer.error ?? "";
  if (answer.error) {
    refused = mine;
    if (view.image === index && !images.index.includes(index)) closeImage();
    return;
  }
  addAnswer(index, { ...answer, layer, method });
  redraw();
}

/* The server's answer; where it is busy, it says when to ask again. */
async function post(query, body) {
  try {
    let response;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      response = await fetch(`explain?${query}`, { method: "POST", body });
      if (response.status !== 503) break;
      await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") ?? 1)));
    }
    return await response.json();
  } catch {
    return { error: "the server does not answer; is it still running?" };
  }
}

export function drawAnswers() {
  byId("ask").hidden = !live;
  byId("asked").replaceChildren(...images.index.flatMap((_, row) => (row < errorCount ? [] : [tile(row)])));
}

function upload(files) {
  const picked = [...files];
  for (const file of picked) uploads.set(-1 - uploads.size, file);
  if (picked.length) openImage(-uploads.size);
}

export function startLive() {
  if (!live) return;
  byId("upload").addEventListener("change", (event) => {
    upload(event.target.files);
    event.target.value = "";
  });
  byId("number").max = data.n - 1;
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("number").value !== "") openImage(Number(byId("number").value));
  });
  addEventListener("paste", (event) => upload(event.clipboardData.files));
  const setDropping = (dropping) => document.body.classList.toggle("dropping", dropping);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    setDropping(true);
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) setDropping(false);
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    setDropping(false);
    upload(event.dataTransfer.files);
  });
}
