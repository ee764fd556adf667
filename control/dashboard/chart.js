// Charts as SVG: stacked bars over time, and small lines. Each bar carries its figures as a title.

import { h, place, svg } from "./dom.js";

const HEIGHT = 230, LEFT = 56, BOTTOM = 24, TOP = 8;
const LABEL = 120; // of the time axis, with the space around it
export const COLOURS = 8;

// The largest groups get colours of their own, the others share the last one.
export function ranked(points, group, measure) {
  const totals = new Map();
  for (const point of points) totals.set(point[group], (totals.get(point[group]) ?? 0) + measure(point));
  const names = [...totals.entries()].filter(([, total]) => total > 0).sort((a, b) => b[1] - a[1]);
  return names.map(([name, total], index) => ({ name: name || "none", key: name, total, colour: Math.min(index, COLOURS - 1) }));
}

// `width`: of where it will stand, so that its texts have the size of all others.
export function stacked({ points, since, until, step_s: step }, group, measure, format, label, width) {
  const groups = ranked(points, group, measure);
  const first = new Date(since).getTime() / 1000, last = new Date(until).getTime() / 1000;
  const steps = Math.max(1, Math.ceil((last - first) / step));
  const columns = Array.from({ length: steps }, () => new Map());
  for (const point of points) {
    const column = columns[Math.floor((new Date(point.at).getTime() / 1000 - first) / step)];
    column?.set(point[group], (column.get(point[group]) ?? 0) + measure(point));
  }
  const highest = nice(Math.max(...columns.map((column) => [...column.values()].reduce((a, b) => a + b, 0)), 0));
  const slot = (width - LEFT) / steps, scale = (HEIGHT - TOP - BOTTOM) / highest;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img", "aria-label": label });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const y = HEIGHT - BOTTOM - part * highest * scale;
    chart.append(svg("line", { x1: LEFT, x2: width, y1: y, y2: y, class: "grid" }));
    chart.append(svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, format(part * highest)));
  }
  columns.forEach((column, index) => {
    let y = HEIGHT - BOTTOM;
    for (const { key, name, colour } of groups) {
      const value = column.get(key) ?? 0;
      if (!value) continue;
      y -= value * scale;
      const bar = svg("rect", {
        x: LEFT + index * slot + slot * 0.1, width: Math.max(1, slot * 0.8), y, height: Math.max(0.5, value * scale), class: `bar f${colour}`,
      });
      bar.append(svg("title", {}, `${name}: ${format(value)}\n${moment(first + index * step, step)}`));
      chart.append(bar);
    }
  });
  const every = Math.ceil((LABEL * steps) / (width - LEFT));
  for (let index = 0; index < steps; index += every) {
    const text = moment(first + index * step, step);
    chart.append(svg("text", { x: LEFT + index * slot, y: HEIGHT - 6 }, text));
  }
  return [chart, legend(groups, format)];
}

function legend(groups, format) {
  return h("ul", { class: "legend" }, groups.map(({ name, total, colour }) =>
    h("li", {}, h("span", { class: `swatch b${colour}` }), `${name} `, h("span", { class: "quiet" }, format(total)))));
}

function moment(at, step) {
  const date = new Date(at * 1000);
  if (step >= 86400) return date.toLocaleDateString([], { month: "short", day: "numeric" });
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return step >= 3600 ? `${date.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}` : time;
}

// The next of 1, 2, 5, 10, 20, …
function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// Lines over the same x, drawn to one scale; null is a gap that is passed over.
export function spark(lines, label) {
  const highest = Math.max(...lines.flat().filter((value) => value !== null), 0) || 1;
  const chart = svg("svg", { viewBox: "0 0 100 26", preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label });
  lines.forEach((values, index) => {
    const known = values.map((value, x) => [x, value]).filter(([, value]) => value !== null);
    const width = Math.max(1, values.length - 1);
    if (known.length === 1) known.push([known[0][0] + (known[0][0] < width ? 1 : -1), known[0][1]]);
    const points = known.map(([x, value]) => `${(100 * x) / width},${24 - (22 * value) / highest}`).join(" ");
    if (points) chart.append(svg("polyline", { points, class: index ? "second" : "" }));
  });
  chart.append(svg("title", {}, label));
  return chart;
}

// Spans on one scale: rows of {name, start, length, colour, text}, in milliseconds.
export function timeline(rows, total) {
  const shares = (value) => `${Math.min(100, (100 * value) / (total || 1))}%`;
  return h("div", { class: "timeline" }, rows.map(({ name, start, length, colour, text }) => [
    h("span", {}, name),
    h("span", { class: "lane" }, place(h("span", { class: `b${colour}` }), { left: shares(start), width: shares(length) })),
    h("span", { class: "number" }, text),
  ]));
}
