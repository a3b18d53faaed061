/* Pictures, which lie side by side on large sheets. */

import { el } from "./dom.js";
import { inputSize } from "./schema.js";

/* The sheet of a picture, and where it lies there in pixels. */
export function placeOf({ per, columns, size, sheets, frames }, number) {
  const sheet = Math.floor(number / per), onSheet = number % per, [height, width] = frames?.[number] ?? size;
  const top = Math.floor(onSheet / columns) * size[0], left = (onSheet % columns) * size[1];
  return { source: sheets[sheet], sheet, top, left, height, width };
}

/* One CSS class a sheet, so that its data are in the document once. */
const sheetStyles = new CSSStyleSheet();
document.adoptedStyleSheets.push(sheetStyles);
const cssClasses = new Map();

function cssClassOf(source) {
  if (!cssClasses.has(source)) {
    cssClasses.set(source, `sheet-${cssClasses.size}`);
    sheetStyles.insertRule(`.${cssClasses.get(source)}{background-image:url(${source})}`);
  }
  return cssClasses.get(source);
}

export function picture([pictures, number], alt) {
  const { source, sheet, top, left, height, width } = placeOf(pictures, number), { columns, size } = pictures;
  const rows = Math.ceil(Math.min(pictures.per, pictures.count - sheet * pictures.per) / columns);
  const high = rows * size[0], wide = columns * size[1]; // of the sheet
  const along = (place, rest) => (rest > 0 ? (100 * place) / rest : 0);
  const style = {
    aspectRatio: `${width} / ${height}`,
    backgroundSize: `${(100 * wide) / width}% ${(100 * high) / height}%`,
    backgroundPosition: `${along(left, wide - width)}% ${along(top, high - height)}%`,
  };
  const sharp = Math.max(...size) <= 64 && size[0] === inputSize[0] ? " sharp" : ""; // not a reduced photo
  return el("span", { class: `picture ${cssClassOf(source)}${sharp}`, role: "img", "aria-label": alt, style });
}

/* A sheet as an image that can be drawn. */
const loaded = new Map();
export function loadSheet(source) {
  if (!loaded.has(source)) loaded.set(source, new Promise((done) => {
    const image = new Image();
    image.onload = () => done(image);
    image.src = source;
  }));
  return loaded.get(source);
}
