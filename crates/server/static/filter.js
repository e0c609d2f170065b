// Shows only the rows of a list that match a text, a state or a group. The rows are there; this
// hides some. What is chosen survives a refresh.

/** By the selector of the rows. */
const chosen = new Map();

function choice(selector) {
  if (!chosen.has(selector)) chosen.set(selector, { text: "", states: new Set(), group: "" });
  return chosen.get(selector);
}

/** Whether a row is shown: every word of the text must be in its name. */
export function matches({ name, state, group }, { text, states, group: wanted }) {
  if (states.size && !states.has(state)) return false;
  if (wanted && group !== wanted) return false;
  const lower = (name ?? "").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}

function apply(root = document) {
  const lists = root.querySelectorAll("[data-filter], [data-choose]");
  for (const selector of new Set([...lists].map((list) => list.dataset.filter ?? list.dataset.choose))) {
    show(root, selector, choice(selector));
  }
}

function show(root, selector, wanted) {
  const isNarrow = Boolean(wanted.text || wanted.states.size || wanted.group);
  let n = 0;
  let section = null;
  for (const row of root.querySelectorAll(selector)) {
    const on = matches(row.dataset, wanted);
    row.hidden = !on;
    n += on;
    section ??= row.closest("section");
  }
  for (const folder of section?.querySelectorAll("details") ?? []) narrow(folder, selector, isNarrow);
  for (const node of selector === ".job" ? root.querySelectorAll(".node[data-group]") : []) {
    const on = node.dataset.group === wanted.group;
    node.classList.toggle("is-chosen", on);
    node.setAttribute("aria-current", on);
  }
  const none = section?.querySelector("[data-no-match]");
  if (none) none.hidden = n > 0;
}

/** A folder of rows is open while some of its rows are looked for, and then as it was. */
function narrow(folder, selector, isNarrow) {
  const some = folder.querySelector(`${selector}:not([hidden])`) !== null;
  folder.hidden = isNarrow && !some;
  if (isNarrow && !("wasOpen" in folder)) folder.wasOpen = folder.open;
  if (isNarrow) folder.open = some;
  else if ("wasOpen" in folder) {
    folder.open = folder.wasOpen;
    delete folder.wasOpen;
  }
}

export function startFilters() {
  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-filter]")) return;
    choice(event.target.dataset.filter).text = event.target.value;
    apply();
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-submits]")) event.target.form.requestSubmit();
  });
  document.addEventListener("click", (event) => {
    const count = event.target.closest("[data-choose] [data-state]");
    if (count) {
      const on = count.getAttribute("aria-pressed") !== "true";
      count.setAttribute("aria-pressed", on);
      const { choose } = count.closest("[data-choose]").dataset;
      choice(choose).states[on ? "add" : "delete"](count.dataset.state);
      apply();
    }
    const node = event.target.closest(".node[data-group]");
    if (node) {
      event.preventDefault();
      const jobs = choice(".job");
      jobs.group = jobs.group === node.dataset.group ? "" : node.dataset.group;
      apply();
      document.getElementById("jobs")?.scrollIntoView({ block: "start" });
    }
  });
  // A page that is about to be shown is filtered first.
  document.addEventListener("kiln:fresh", (event) => apply(event.detail));
  document.addEventListener("kiln:changed", () => apply());
}
