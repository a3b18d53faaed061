/* Elements and text. */

export const byId = (id) => document.getElementById(id);

/* An element, from its tag, attributes and children; text is only ever text. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/* Buttons of which one is pressed. */
export const choice = (name, options, value, choose) =>
  el("span", { class: "choice", role: "group", "aria-label": name }, options.map(([option, text]) =>
    el("button", { type: "button", "aria-pressed": String(option === value), onclick: () => choose(option) }, text)));

/* A name in the colour of labels, of predictions, or in none. */
export const asLabel = (text) => el("b", { class: "label" }, text);
export const asPrediction = (text) => el("b", { class: "prediction" }, text);
export const asNeither = (text) => el("b", {}, text);

/* A number with so many decimal places; halves go to the even digit, as they do in Python. */
export function fixed(value, digits) {
  const text = value.toFixed(digits), isHalf = /^50*$/.test(value.toFixed(digits + 40).slice(-40));
  return isHalf && Number(text.at(-1)) % 2 ? (value - Math.sign(value) * 0.5 / 10 ** digits).toFixed(digits) : text;
}
export const whole = (value) => Number(fixed(value, 0));

/* Numbers in words. Probabilities are as in the figures (camlens.show.figures.pictures). */
export const percent = (probability) => {
  if (probability < 0.001) return "< 0.1 %";
  const isNearEnd = probability < 0.1 || (probability >= 0.995 && probability < 1);
  return `${fixed(100 * probability, isNearEnd ? 1 : 0)} %`;
};
export const wholePercent = (fraction) => `${fixed(100 * fraction, 0)} %`;
export const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
export const integer = (number) => number.toLocaleString("en");
