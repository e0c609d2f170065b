// One row of the log's window: a line number and the line's text with its colours.
import { look, parseLine, PLAIN } from "./ansi.js";

/** How far back a style is looked for that goes on over lines. */
const BACK = 100;

/** Parts of a text that do and do not contain `needle`, alternating, beginning with one that does not. */
export function splitMatches(text, needle) {
  if (!needle) return [text];
  const parts = [];
  const [lower, low] = [text.toLowerCase(), needle.toLowerCase()];
  let at = 0;
  for (let hit = lower.indexOf(low); hit >= 0; hit = lower.indexOf(low, at)) {
    parts.push(text.slice(at, hit), text.slice(hit, hit + low.length));
    at = hit + low.length;
  }
  parts.push(text.slice(at));
  return parts;
}

const make = (tag, className) => Object.assign(document.createElement(tag), { className });

/** An empty row. It remembers what it shows, so that the same is not drawn again. */
export function makeRow() {
  const row = make("div", "log-row");
  row.number = make("a", "log-n");
  row.number.tabIndex = -1;
  row.text = make("span", "log-text");
  row.append(row.number, row.text);
  return row;
}

/** Shows a line in a row. `line` is absent while it is being fetched; `step` begins here if given. */
export function fillRow(row, { line, styles, needle, step, raw }) {
  row.classList.toggle("is-missing", !line);
  if (row.shown === line && row.shownAt === row.n && row.shownNeedle === needle && row.shownStep === step) return;
  Object.assign(row, { shown: line, shownAt: row.n, shownNeedle: needle, shownStep: step });
  row.number.dataset.n = row.n + 1;
  row.number.href = `#L${row.n + 1}`;
  row.number.setAttribute("aria-label", `Line ${row.n + 1}`);
  row.text.replaceChildren(...(line ? nodes(line, styles.before(row.n), needle, raw) : []));
  row.step?.remove();
  row.step = null;
  row.classList.toggle("is-step", Boolean(step));
  if (step) {
    row.step = make("bdi", "log-step");
    row.step.textContent = step;
    row.append(row.step);
  }
}

function nodes(line, style, needle, raw) {
  const shown = [];
  for (const piece of parseLine(line.text, style).pieces) {
    const { className, color, background } = look(piece.style);
    const into = className || color || background ? make("span", className) : null;
    if (into) {
      into.style.color = color;
      into.style.backgroundColor = background;
      shown.push(into);
    }
    splitMatches(piece.text, needle).forEach((part, at) => {
      if (!part) return;
      const node = at % 2 ? document.createElement("mark") : document.createTextNode(part);
      if (at % 2) node.textContent = part;
      into ? into.append(node) : shown.push(node);
    });
  }
  if (line.cut_from !== undefined) shown.push(rest(line, raw));
  return shown;
}

/** Says what was cut off. Its text is drawn by the style sheet, so that it is not copied. */
function rest(line, raw) {
  const link = make("a", "log-cut");
  link.href = raw;
  const n = Math.max(line.cut_from - new TextEncoder().encode(line.text).length, 0);
  link.dataset.text = `… ${n.toLocaleString("en")} bytes more, open raw`;
  link.setAttribute("aria-label", link.dataset.text);
  return link;
}

/** With which style each line begins: colours may go on over lines. */
export class LineStyles {
  #lines;
  #after = new WeakMap();

  constructor(lines) {
    this.#lines = lines;
  }

  before(n) {
    let from = n;
    while (from > 0 && n - from < BACK) {
      const before = this.#lines.get(from - 1);
      if (!before) break;
      from -= 1;
      if (this.#after.has(before)) break;
    }
    let style = PLAIN;
    for (let at = from; at < n; at += 1) {
      const line = this.#lines.get(at);
      if (!this.#after.has(line)) this.#after.set(line, parseLine(line.text, style).style);
      style = this.#after.get(line);
    }
    return style;
  }
}
