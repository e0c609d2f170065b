// Ctrl-K: go to a project, one of its newest runs, or a job of the run on this page, by typing
// parts of the name.

/** How well a text fits what was typed: null when it does not, else higher is better. */
export function fit(text, typed) {
  const lower = text.toLowerCase();
  let total = 0;
  for (const word of typed.toLowerCase().split(/\s+/).filter(Boolean)) {
    const at = lower.indexOf(word);
    if (at < 0) return null;
    const starts = at === 0 || /[\s/:#._-]/.test(lower[at - 1]);
    total += (starts ? 100 : 50) - Math.min(at, 40);
  }
  return total - lower.length / 100;
}

/** The best items for what was typed, at most `max`; without typing, as they are. */
export function choose(items, typed, max) {
  if (!typed.trim()) return items.slice(0, max);
  return items
    .map((item) => ({ item, score: fit(`${item.text} ${item.note}`, typed) }))
    .filter(({ score }) => score !== null)
    .sort((a, b) => b.score - a.score)
    .slice(0, max)
    .map(({ item }) => item);
}

const SHOWN_MAX = 40;

/** Jobs on this page, then projects, then their runs. */
async function gather() {
  const jobs = [...document.querySelectorAll(".job[data-name]")].map((row) => ({
    text: row.dataset.name,
    note: "job",
    state: row.dataset.state,
    link: row.querySelector("a[data-row]").href,
  }));
  const answer = await fetch("/api/v1/projects").catch(() => null);
  const projects = answer?.ok ? await answer.json() : [];
  const path = (...parts) => `/p/${parts.map(encodeURIComponent).join("/")}`;
  const all = projects.map((p) => ({
    text: p.project, note: "project", state: p.runs[0]?.state ?? "queued", link: path(p.project),
  }));
  const runs = projects.flatMap((p) => p.runs.map((run) => ({
    text: `${p.project} #${run.number} ${run.title}`,
    note: run.branch ?? run.tag ?? "run",
    state: run.state,
    link: path(p.project, run.number),
  })));
  return [...jobs, ...all, ...runs];
}

const SVG = "http://www.w3.org/2000/svg";

function icon(state) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${state}`);
  svg.append(use);
  return svg;
}

function row(item, at) {
  const link = document.createElement("a");
  link.className = `palette-item s-${item.state}`;
  link.id = `palette-${at}`;
  link.href = item.link;
  link.setAttribute("role", "option");
  link.tabIndex = -1;
  const text = document.createElement("bdi");
  text.textContent = item.text;
  const note = document.createElement("span");
  note.className = "sub";
  note.textContent = item.note;
  link.append(icon(item.state), text, note);
  return link;
}

export async function openPalette() {
  const dialog = document.getElementById("palette");
  if (dialog.open) return;
  const box = Object.assign(document.createElement("input"), {
    className: "palette-box", type: "text", placeholder: "Project, run or job", autocomplete: "off", spellcheck: false,
  });
  box.setAttribute("role", "combobox");
  box.setAttribute("aria-expanded", "true");
  box.setAttribute("aria-controls", "palette-list");
  box.setAttribute("aria-label", "Project, run or job");
  const list = Object.assign(document.createElement("div"), { className: "palette-list", id: "palette-list" });
  list.setAttribute("role", "listbox");
  dialog.replaceChildren(box, list);
  dialog.showModal();
  let items = [];
  let at = 0;

  const mark = () => {
    [...list.children].forEach((one, place) => one.setAttribute("aria-selected", place === at));
    list.children[at]?.scrollIntoView({ block: "nearest" });
    box.setAttribute("aria-activedescendant", list.children[at]?.id ?? "");
  };
  const show = () => {
    const found = choose(items, box.value, SHOWN_MAX);
    list.replaceChildren(...found.map(row));
    if (!found.length) {
      const none = Object.assign(document.createElement("p"), { className: "palette-none" });
      none.textContent = items.length ? "Nothing has that name." : "Looking…";
      list.append(none);
    }
    at = 0;
    mark();
  };
  box.addEventListener("input", show);
  box.addEventListener("keydown", (event) => {
    const n = list.querySelectorAll("a").length;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && n) {
      at = (at + step + n) % n;
      mark();
    } else if (event.key === "Enter") {
      list.querySelectorAll("a")[at]?.click();
    } else {
      return;
    }
    event.preventDefault();
  });
  // A link to a place on this page leaves the dialog open otherwise.
  list.addEventListener("click", () => dialog.close());
  show();
  items = await gather();
  show();
}

export function startPalette() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]");
    if (opener?.dataset.open === "palette") openPalette();
    if (opener?.dataset.open === "help") document.getElementById("help").showModal();
    // A click beside an open dialog closes it.
    if (event.target.matches("dialog[open]")) event.target.close();
  });
}
