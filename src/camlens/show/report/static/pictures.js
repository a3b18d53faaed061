/* Pictures, which lie side by side on large sheets. */

import { el } from "./dom.js";

/* The sheet of a picture, and its column and row there. */
export function placeOf(pictures, number) {
  const onSheet = number % pictures.per;
  return {
    source: pictures.sheets[Math.floor(number / pictures.per)],
    sheet: Math.floor(number / pictures.per), x: onSheet % pictures.columns, y: Math.floor(onSheet / pictures.columns),
  };
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
  const { source, sheet, x, y } = placeOf(pictures, number), { columns, size } = pictures;
  const rows = Math.ceil(Math.min(pictures.per, pictures.count - sheet * pictures.per) / columns);
  const along = (place, places) => (places > 1 ? (100 * place) / (places - 1) : 0);
  const style = {
    aspectRatio: `${size[1]} / ${size[0]}`,
    backgroundSize: `${100 * columns}% ${100 * rows}%`,
    backgroundPosition: `${along(x, columns)}% ${along(y, rows)}%`,
  };
  const sharp = Math.max(...size) <= 64 ? " sharp" : "";
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
