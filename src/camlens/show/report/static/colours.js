/* Colours. All of them are custom properties of the style sheet (camlens.show.palette). */

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

/* The stops of a colour map, or null for a name that is none. */
export const colourMap = (name) => (["viridis", "magma"].includes(name) ? colour(name).split(" ").map(rgb) : null);

/* The colour at a fraction of the way through the stops. */
export function interpolate(stops, fraction) {
  const place = fraction * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(place));
  return stops[low].map((value, channel) => value + (stops[low + 1][channel] - value) * (place - low));
}

/* So much of the colour of predictions on the paper and, as text on it, black or white, whichever is read better. */
export function cellStyle(fraction) {
  const [fill, paper] = ["prediction-fill", "paper"].map((name) => rgb(colour(name)));
  const mixed = fill.map((value, channel) => Math.round(value * fraction + paper[channel] * (1 - fraction)));
  const linear = mixed.map((value) => (value <= 10 ? value / 3294 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return { background: `rgb(${mixed})`, color: colour(luminance > 0.179 ? "black" : "white") }; // WCAG 2
}
