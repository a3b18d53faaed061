/* What is looked at. All of it is in the address, so that a link shows the same. */

import { data, images, live, secondModel } from "./schema.js";

const DEFAULTS = {
  which: secondModel ? "fixed" : "errors", label: null, prediction: null, word: "", group: null, sort: "confidence", find: "",
  image: null, depth: "last", layer: "", method: "", class: null,
  grid: "smooth", strength: 80, colours: "meaning", scale: "own",
};
const NUMBERS = ["label", "prediction", "group", "image", "class", "strength"];

export const view = { ...DEFAULTS };

const listeners = [];
export const onChange = (listener) => listeners.push(listener);
export const redraw = () => listeners.forEach((listener) => listener());

export function readAddress() {
  Object.assign(view, DEFAULTS);
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    if (key in DEFAULTS) view[key] = NUMBERS.includes(key) ? Number(value) : value;
  }
  const inData = live && view.image >= 0 && view.image < data.n;
  if (view.image !== null && !images.index.includes(view.image) && !inData) view.image = null;
}

let follow = () => ({});
/* What else changes with a change of the view. */
export const followChanges = (listener) => { follow = listener; };

export function setView(changes) {
  Object.assign(view, changes);
  Object.assign(view, follow(changes));
  const changed = Object.entries(view).filter(([key, value]) => value !== DEFAULTS[key] && value !== null);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
  redraw();
}

export const openImage = (index) => setView({ image: index, class: null });
export const closeImage = () => openImage(null);

/* Whether an open card has a place beside the gallery. On narrower pages it lies above it, or on it. */
export const isBesideGallery = () => matchMedia("(min-width: 1600px)").matches;
