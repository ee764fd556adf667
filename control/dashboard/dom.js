// Elements and numbers. `h` never reads markup out of a value, so nothing that a client sent can become part of the page.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const h = (name, properties, ...children) => fill(document.createElement(name), properties, children);
export const svg = (name, properties, ...children) => fill(document.createElementNS(SVG, name), properties, children);
export const $ = (id) => document.getElementById(id);
export const show = (parent, ...children) => parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
export const empty = (...text) => h("p", { class: "empty" }, ...text);

// The page's policy forbids style attributes; setting properties is not the same thing.
export function place(element, styles) {
  Object.assign(element.style, styles);
  return element;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => (value === null || value === undefined ? "–" : Math.abs(value) < 10000 ? whole.format(value) : short.format(value));
export const usd = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 3 : 5;
  return (value < 0 ? "-$" : "$") + (size >= 10000 ? short.format(size) : size.toFixed(digits));
};
export const ms = (value) => {
  if (value === null || value === undefined) return "–";
  if (value >= 10000) return (value / 1000).toFixed(1) + " s";
  return value >= 10 ? whole.format(value) + " ms" : value.toFixed(value >= 1 ? 1 : 2) + " ms";
};
export const pct = (share) => (share === null || share === undefined ? "–" : (100 * share).toFixed(share && share < 0.1 ? 1 : 0) + " %");
export const clock = (at) => new Date(at).toLocaleTimeString([], { hourCycle: "h23" });
export const ago = (at) => {
  if (!at) return "never";
  const s = Math.max(0, (Date.now() - new Date(at)) / 1000);
  if (s < 90) return Math.round(s) + " s ago";
  if (s < 5400) return Math.round(s / 60) + " min ago";
  return s < 172800 ? Math.round(s / 3600) + " h ago" : Math.round(s / 86400) + " d ago";
};

export function table(caption, columns, rows) {
  const head = columns.map(([text, kind]) => h("th", { scope: "col", class: kind }, text));
  const body = rows.map((cells) => h("tr", {}, cells.map((cell, index) => h("td", { class: columns[index][1] }, cell))));
  return h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
}

export const chip = (text, kind) => h("span", { class: `chip ${kind ?? ""}` }, text);
