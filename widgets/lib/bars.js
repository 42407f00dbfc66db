// Small bar charts, each with its numbers beside the bars: readable without colour and without a mouse.

import { h, svg } from "./dom.js";

/** Bars: rows are { name, value (0 … 1 of the width), text, mark }. `mark` picks a pattern and colour of bars.css. */
export function bars(title, rows, note = "") {
  const table = h("table", { class: "wb-bars" }, h("caption", {}, title), h("tbody", {}, rows.map(({ name, value, text, mark = "" }) =>
    h("tr", {}, h("th", { scope: "row" }, name),
      h("td", { class: "wb-cell" }, h("i", { class: mark, style: { width: `${100 * Math.max(0, Math.min(1, value || 0))}%` } })),
      h("td", { class: "wb-num" }, text)))));
  return h("div", { class: "wb-chart" }, table, note ? h("p", { class: "wb-note" }, note) : null);
}

/** A line over whole numbers 0 … n - 1 with a level at 1 and one marked point. */
export function curve(values, marked, label) {
  const [W, H, left, low] = [240, 92, 36, 74];
  const most = Math.max(1.2, ...values);
  const x = (k) => left + 6 + (k * (W - left - 14)) / Math.max(1, values.length - 1);
  const y = (v) => low - (v / most) * (low - 8);
  const at = values.map((v, k) => `${x(k).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "wb-curve", role: "img", "aria-label": label },
    svg("line", { x1: left, x2: W - 4, y1: y(1), y2: y(1), class: "level" }),
    svg("text", { x: left - 4, y: y(1) + 3, "text-anchor": "end" }, "1×"),
    Math.abs(y(most) - y(1)) > 12 && svg("text", { x: left - 4, y: y(most) + 6, "text-anchor": "end" }, `${most.toFixed(1)}×`),
    svg("polyline", { points: at }),
    values.map((v, k) => svg("circle", { cx: x(k), cy: y(v), r: k === marked ? 5 : 2.2, class: k === marked ? "on" : "" })),
    values.map((v, k) => svg("text", { x: x(k), y: H - 4, "text-anchor": "middle", class: k === marked ? "on" : "" }, String(k))));
}
