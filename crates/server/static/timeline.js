// Lets the bars of running jobs grow, by the formula of `web/timeline.rs`.
import { now, showDuration, whileSeen } from "./time.js";

const AXIS = 1000;
const THINNEST = 4;

/** Places of the two parts of a bar on an axis, as [x, width] or null. Times in milliseconds. */
export function barParts({ ready, start, end }, from, to) {
  const at = (ms) => Math.floor(((Math.min(Math.max(ms, from), to) - from) * AXIS) / (to - from));
  let waited = null;
  if (ready !== null) {
    const [x, until] = [at(ready), at(start ?? end ?? to)];
    if (until > x) waited = [x, until - x];
  }
  let ran = null;
  if (start !== null) {
    const x = Math.min(at(start), AXIS - THINNEST);
    ran = [x, Math.max(at(end ?? to) - x, THINNEST)];
  }
  return { waited, ran };
}

function redraw() {
  const list = document.querySelector(".jobs[data-axis-from]:not([data-axis-to])");
  if (!list) return;
  const from = Number(list.dataset.axisFrom);
  const to = Math.max(now(), from + 1);
  const number = (text) => (text === undefined ? null : Number(text));
  for (const svg of list.querySelectorAll(".bar")) {
    const { ready, start, end } = svg.dataset;
    const parts = barParts({ ready: number(ready), start: number(start), end: number(end) }, from, to);
    place(svg, "bar-wait", parts.waited, { y: 6.5, height: 3 });
    place(svg, "bar-ran", parts.ran, { y: 3, height: 10, rx: 1 });
  }
  const end = document.querySelector("[data-axis-end]");
  if (end) end.textContent = showDuration(Math.floor((to - from) / 1000) * 1000);
}

function place(svg, name, part, shape) {
  let rect = svg.querySelector(`.${name}`);
  if (!part) return rect?.remove();
  if (!rect) {
    rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    rect.setAttribute("class", name);
    for (const [key, value] of Object.entries(shape)) rect.setAttribute(key, value);
    name === "bar-wait" ? svg.prepend(rect) : svg.append(rect);
  }
  rect.setAttribute("x", part[0]);
  rect.setAttribute("width", part[1]);
}

export function startTimeline() {
  redraw();
  document.addEventListener("kiln:changed", redraw);
  whileSeen(1_000, () => document.querySelector(".jobs[data-axis-from]:not([data-axis-to])"), redraw);
}
