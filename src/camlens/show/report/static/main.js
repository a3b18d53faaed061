/* The page: what is drawn, and when. */

import { drawCard } from "./card.js";
import { drawGroups } from "./groups.js";
import { byId } from "./dom.js";
import { drawGallery, openNeighbour, startGallery } from "./gallery.js";
import { drawJudgement, startJudging } from "./judge.js";
import { drawAnswers, startLive } from "./live.js";
import { drawMarks, startMarks } from "./marks.js";
import { drawMatrix, moveFocus } from "./matrix.js";
import { drawCalibration, drawClasses, drawHead } from "./overview.js";
import { drawPlane, openNearest } from "./plane.js";
import { drawExperiments } from "./reasons.js";
import { images } from "./schema.js";
import { selectErrors } from "./selection.js";
import { closeImage, onChange, readAddress, redraw, view } from "./state.js";

/* Escape closes an image, arrows open the next one or the one before it. */
function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && view.image !== null) {
    const closed = view.image;
    closeImage();
    document.querySelector(`[data-image="${closed}"]`)?.focus();
    return;
  }
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.target.matches("input, select, textarea") || !selectErrors().length) return;
  event.preventDefault();
  openNeighbour(step);
}

for (const draw of [drawMatrix, drawGroups, drawGallery, drawAnswers, drawCard, drawPlane, drawMarks, drawJudgement]) onChange(draw);
startGallery();
startMarks();
startJudging();
startLive();
byId("matrix").addEventListener("keydown", moveFocus);
byId("plane").addEventListener("click", openNearest);
addEventListener("keydown", onKey);
addEventListener("hashchange", () => {
  readAddress();
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

readAddress();
const WIDE = 980; // CSS pixels, above which a card has a place of its own
if (!location.hash && innerWidth > WIDE) view.image = images.index[selectErrors()[0]] ?? null;
drawHead();
drawClasses();
drawExperiments();
drawCalibration();
redraw();
