// `<log-view src attempt>`: a window over a log of any size.
//
// Truth is one number: the line at the top, with a fraction. Scrolling changes it (log-scroll.js);
// drawing shows the lines from there in a few recycled rows that stick to the window, asking for
// what is not here (log-lines.js). Rows flow, so wrapped lines may have any height. At the end the
// last row stands on the lower edge.
import { LogLines } from "./log-lines.js";
import { fillRow, LineStyles, makeRow } from "./log-row.js";
import { barHeight, moved, toBar } from "./log-scroll.js";
import { LogSearch } from "./log-search.js";

/** Height of a row that is not wrapped; `log.css` has the same. */
const ROW = 20;
const ROWS_MAX = 300;
/** After this long without movement the bar is put where the map says. */
const IDLE_MS = 160;
const SEARCH_AFTER_MS = 220;

const count = (n) => n.toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

/** `#L12` or `#L12-L20` as line positions from 0. */
export function parseHash(hash) {
  const found = /^#L(\d+)(?:-L?(\d+))?$/.exec(hash);
  if (!found) return null;
  const [from, to] = [Number(found[1]), Number(found[2] ?? found[1])];
  return from < 1 ? null : { from: Math.min(from, to) - 1, to: Math.max(from, to) - 1 };
}

const button = (icon, label, keys) => `
  <button type="button" class="log-button" data-do="${icon}" aria-label="${label}" title="${label} (${keys})">
  <svg class="icon" aria-hidden="true"><use href="#i-${icon}"/></svg></button>`;

// Ours alone: nothing of the log is ever in here.
const FRAME = `
  <div class="log-bar">
    <label class="log-search"><span class="sr">Search the log</span>
      <input type="search" placeholder="Search the log" autocomplete="off" spellcheck="false"></label>
    <span class="log-hits" role="status"></span>
    ${button("up", "Previous match", "N")}${button("down", "Next match", "n")}
    <span class="log-gap"></span>
    <span class="log-size"></span>
    <button type="button" class="log-button log-follow" data-do="follow" aria-pressed="false" title="Follow the end (f)" hidden>Follow</button>
    ${button("wrap", "Wrap long lines", "w")}${button("top", "Start", "Home")}${button("bottom", "End", "End")}
    <a class="log-button" data-raw aria-label="Open the raw log" title="Open the raw log">Raw</a>
    <a class="log-button" data-download download aria-label="Download the log" title="Download the log"><svg class="icon" aria-hidden="true"><use href="#i-download"/></svg></a>
  </div>
  <div class="log-here" aria-hidden="true"></div>
  <div class="log-scroll" tabindex="0" role="region" aria-label="Log"><div class="log-height"><div class="log-window"><div class="log-rows"></div></div></div></div>`;

class LogView extends HTMLElement {
  #lines = null;
  #top = 0;
  #row = ROW;
  #bar = 0;
  #rows = [];
  #styles = null;
  #marked = null;
  #search = null;
  #searching = 0;
  #follows = false;
  #frame = 0;
  #idle = 0;
  #ends = null;

  connectedCallback() {
    if (this.#lines) return;
    this.#ends = new AbortController();
    const src = this.getAttribute("src");
    const attempt = this.getAttribute("attempt");
    this.#lines = new LogLines(src, attempt, () => this.#grown());
    this.#search = new LogSearch(this.#lines);
    this.#styles = new LineStyles(this.#lines);
    this.#open(src, attempt);
  }

  disconnectedCallback() {
    this.removeAttribute("ready");
    this.#lines?.close();
    this.#lines = null;
    this.#rows = [];
    this.#ends?.abort();
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
  }

  async #open(src, attempt) {
    const lines = this.#lines;
    // What the server wrote stays until there is something better.
    for (let wait = 500; ; wait = Math.min(wait * 2, 15_000)) {
      try {
        await lines.open();
        break;
      } catch {
        await new Promise((after) => { setTimeout(after, wait); });
        if (this.#lines !== lines) return;
      }
    }
    if (this.#lines !== lines) return;
    const frame = document.createElement("template");
    frame.innerHTML = FRAME;
    this.replaceChildren(frame.content);
    const raw = `${src}?attempt=${encodeURIComponent(attempt)}`;
    this.#part("[data-raw]").href = raw;
    this.#part("[data-download]").href = `${raw}&download=1`;
    this.#listen();
    this.#marked = parseHash(location.hash);
    this.#follow(!lines.over && !this.#marked);
    this.#resize();
    if (this.#marked) this.#show(this.#marked.from);
    else this.#toEnd();
    this.setAttribute("ready", "");
  }

  #part(selector) {
    return this.querySelector(selector);
  }

  #listen() {
    const signal = this.#ends.signal;
    const scroll = this.#part(".log-scroll");
    const search = this.#part("[type=search]");
    scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true, signal });
    this.addEventListener("click", (event) => this.#clicked(event), { signal });
    search.addEventListener("input", () => {
      clearTimeout(this.#searching);
      this.#searching = setTimeout(() => this.#find(search.value), SEARCH_AFTER_MS);
    }, { signal });
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.#step(event.shiftKey ? -1 : 1);
      } else if (event.key === "Escape") {
        search.value = "";
        this.#find("");
        scroll.focus();
      }
    }, { signal });
    document.addEventListener("keydown", (event) => this.#typed(event), { signal });
    addEventListener("hashchange", () => {
      this.#marked = parseHash(location.hash);
      if (this.#marked) {
        this.#follow(false);
        this.#show(this.#marked.from);
      } else {
        this.#draw();
      }
    }, { signal });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#lines.pause();
      else this.#lines.resume();
    }, { signal });
    // A page that is kept for going back gives its connection back too.
    addEventListener("pagehide", () => this.#lines.pause(), { signal });
    addEventListener("pageshow", () => this.#lines.resume(), { signal });
    document.addEventListener("kiln:changed", () => this.#draw(), { signal });
    const sizes = new ResizeObserver(() => this.#resize());
    sizes.observe(scroll);
    signal.addEventListener("abort", () => sizes.disconnect());
  }

  #clicked(event) {
    const number = event.target.closest(".log-n");
    if (number) {
      event.preventDefault();
      const line = Number(number.dataset.n) - 1;
      const from = event.shiftKey && this.#marked ? this.#marked.from : line;
      this.#marked = { from: Math.min(from, line), to: Math.max(from, line) };
      const one = this.#marked.from === this.#marked.to;
      const hash = `#L${this.#marked.from + 1}${one ? "" : `-L${this.#marked.to + 1}`}`;
      history.replaceState(null, "", hash);
      this.#draw();
    }
    this.#do(event.target.closest("[data-do]")?.dataset.do);
  }

  #typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, textarea, select")) return;
    const does = { f: "follow", w: "wrap", n: "down", N: "up", Home: "top", End: "bottom" }[event.key];
    if (!does) return;
    event.preventDefault();
    this.#do(does);
  }

  #do(what) {
    if (what === "follow") {
      this.#follow(!this.#follows);
      if (this.#follows) this.#toEnd();
    }
    if (what === "wrap") this.#wrap();
    if (what === "top") this.#follow(false), this.#go(0);
    if (what === "bottom") this.#follow(!this.#lines.over), this.#toEnd();
    if (what === "down") this.#step(1);
    if (what === "up") this.#step(-1);
  }

  #wrap() {
    const on = this.classList.toggle("is-wrapped");
    this.#part("[data-do=wrap]").setAttribute("aria-pressed", on);
    this.#row = ROW;
    this.#resize();
  }

  #follow(on) {
    this.#follows = on && !this.#lines.over;
    this.#lines.following = this.#follows;
    const button = this.#part("[data-do=follow]");
    button.hidden = this.#lines.over;
    button.setAttribute("aria-pressed", this.#follows);
  }

  // ---- Place ----

  get #full() {
    return this.#lines.nLines * this.#row;
  }

  get #seen() {
    return this.#part(".log-scroll").clientHeight;
  }

  get #lastTop() {
    return Math.max(this.#lines.nLines - this.#seen / this.#row, 0);
  }

  #scrolled() {
    const scroll = this.#part(".log-scroll");
    const y = scroll.scrollTop;
    if (Math.abs(y - this.#bar) < 1) return this.#draw();
    const up = y < this.#bar;
    const top = moved(this.#top * this.#row, this.#bar, y, this.#full, this.#seen);
    this.#bar = y;
    this.#top = Math.min(top / this.#row, this.#lastTop);
    if (up) this.#follow(false);
    else if (!this.#follows && this.#top >= this.#lastTop - 0.5) this.#follow(true);
    this.#draw();
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.#putBar(), IDLE_MS);
  }

  /** Puts the bar where the place in the log says. */
  #putBar() {
    const y = toBar(this.#top * this.#row, this.#full);
    const scroll = this.#part(".log-scroll");
    if (!scroll || Math.abs(scroll.scrollTop - y) < 1) return;
    scroll.scrollTop = y;
    this.#bar = scroll.scrollTop;
  }

  #go(top) {
    this.#top = Math.min(Math.max(top, 0), this.#lastTop);
    this.#putBar();
    this.#draw();
  }

  #toEnd() {
    this.#go(this.#lastTop);
  }

  /** Brings a line into view, a third down. */
  #show(line) {
    this.#go(line - Math.floor(this.#seen / this.#row / 3));
  }

  #resize() {
    const height = this.#part(".log-height");
    if (!height) return;
    height.style.height = `${barHeight(this.#full)}px`;
    const scroll = this.#part(".log-scroll");
    this.#part(".log-window").style.height = `${scroll.clientHeight}px`;
    this.#go(this.#follows ? this.#lastTop : this.#top);
  }

  #grown() {
    if (!this.hasAttribute("ready")) return;
    const height = `${barHeight(this.#full)}px`;
    const box = this.#part(".log-height");
    if (box.style.height !== height) this.#resize();
    if (this.#lines.over) this.#follow(false);
    this.#draw();
  }

  // ---- Drawing ----

  #draw() {
    if (this.#frame || !this.#part(".log-rows")) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.isConnected && this.#lines) this.#paint();
    });
  }

  #paint() {
    const n = this.#lines.nLines;
    const seen = this.#seen;
    if (this.#follows) this.#top = this.#lastTop;
    const size = Math.min(Math.ceil(seen / ROW) + 2, ROWS_MAX, n);
    const atEnd = this.#top >= this.#lastTop - 0.01 && n * this.#row >= seen;
    const first = Math.max(Math.min(Math.floor(this.#top), n - size), 0);
    this.#lines.want(Math.max(first - 20, 0), Math.min(first + size + 20, n - 1));
    this.#arrange(first, size);
    this.#fill();
    const rows = this.#part(".log-rows");
    const anchor = this.#rows[Math.floor(this.#top) - first];
    const inside = anchor ? anchor.offsetTop + (this.#top % 1) * anchor.offsetHeight : 0;
    const shift = atEnd ? rows.offsetHeight - seen : inside;
    rows.style.transform = `translateY(${-Math.max(Math.round(shift), 0)}px)`;
    this.#mind(rows, size);
    this.#tell();
  }

  /** Wrapped lines are higher: the bar counts with their mean height. */
  #mind(rows, size) {
    if (!size || !this.classList.contains("is-wrapped")) return;
    const mean = Math.max(rows.offsetHeight / size, ROW);
    if (Math.abs(mean - this.#row) / this.#row > 0.25) {
      this.#row = mean;
      this.#resize();
    }
  }

  /** Rows for the lines from `first`, keeping those that are there: a selection lives in them. */
  #arrange(first, size) {
    const box = this.#part(".log-rows");
    const rows = this.#rows;
    while (rows.length < size) {
      const row = makeRow();
      row.n = rows.length ? rows.at(-1).n + 1 : first;
      rows.push(row);
      box.append(row);
    }
    while (rows.length > size) rows.pop().remove();
    if (!size) return;
    if (Math.abs(rows[0].n - first) >= size) {
      rows.forEach((row, at) => { row.n = first + at; });
      return;
    }
    while (rows[0].n < first) {
      const row = rows.shift();
      row.n = rows.at(-1).n + 1;
      rows.push(row);
      box.append(row);
    }
    while (rows[0].n > first) {
      const row = rows.pop();
      row.n = rows[0].n - 1;
      rows.unshift(row);
      box.prepend(row);
    }
  }

  #fill() {
    const steps = this.#steps();
    const raw = this.#part("[data-raw]").href;
    const { needle, line: hit } = this.#search;
    for (const row of this.#rows) {
      const { from, to } = this.#marked ?? { from: 1, to: 0 };
      row.classList.toggle("is-marked", row.n >= from && row.n <= to);
      row.classList.toggle("is-hit", row.n === hit);
      fillRow(row, { line: this.#lines.get(row.n), styles: this.#styles, needle, step: steps.get(row.n) ?? "", raw });
    }
  }

  /** First lines of steps, as the page says them. */
  #steps() {
    const steps = new Map();
    for (const step of document.querySelectorAll(".step[data-line]")) {
      const name = step.querySelector("a, .step-name")?.textContent ?? "";
      steps.set(Number(step.dataset.line) - 1, name);
    }
    return steps;
  }

  #tell() {
    const { nLines, nBytes } = this.#lines;
    const unit = nBytes < 1e3 ? [1, "B"] : nBytes < 1e6 ? [1e3, "kB"] : nBytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
    const size = `${plural(nLines, "line")} · ${(nBytes / unit[0]).toFixed(unit[0] === 1 ? 0 : 1)} ${unit[1]}`;
    // As wide as the last number, so that the text does not jump where a digit more begins.
    this.style.setProperty("--log-digits", String(nLines).length);
    const place = this.#part(".log-size");
    if (place.textContent !== size) place.textContent = size;
    let here = null;
    const middle = this.#top + 0.5;
    for (const step of document.querySelectorAll(".step[data-line]")) {
      if (Number(step.dataset.line) - 1 <= middle) here = step;
    }
    for (const step of document.querySelectorAll(".step")) step.toggleAttribute("data-here", step === here);
    const name = here?.querySelector("a, .step-name")?.textContent ?? "";
    const box = this.#part(".log-here");
    if (box.textContent !== name) box.textContent = name;
    const scroll = this.#part(".log-scroll");
    scroll.classList.toggle("is-empty", !nLines);
    scroll.dataset.empty = this.#lines.over ? "Nothing was written." : "Nothing has been written yet.";
  }

  // ---- Search ----

  async #find(needle) {
    if (needle) this.#part(".log-hits").textContent = "Searching…";
    if (await this.#search.begin(needle)) await this.#step(1);
  }

  async #step(by) {
    await this.#search.step(by, Math.floor(this.#top));
    this.#part(".log-hits").textContent = this.#search.told();
    if (this.#search.line !== undefined) {
      this.#follow(false);
      this.#show(this.#search.line);
    }
    this.#draw();
  }
}

customElements.define("log-view", LogView);
