// Shows only the rows of a list that match a text, a state or a group. The rows are there; this
// hides some. What is chosen survives a refresh.

const chosen = { text: "", states: new Set(), group: "" };

/** Whether a row is shown: every word of the text must be in its name. */
export function matches({ name, state, group }, { text, states, group: wanted }) {
  if (states.size && !states.has(state)) return false;
  if (wanted && group !== wanted) return false;
  const lower = (name ?? "").toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}

function apply(root = document) {
  const selector = root.querySelector("[data-filter]")?.dataset.filter
    ?? root.querySelector("[data-choose]")?.dataset.choose;
  if (!selector) return;
  let n = 0;
  for (const row of root.querySelectorAll(selector)) {
    const show = matches(row.dataset, chosen);
    row.hidden = !show;
    n += show;
  }
  for (const node of root.querySelectorAll(".node[data-group]")) {
    const on = node.dataset.group === chosen.group;
    node.classList.toggle("is-chosen", on);
    node.setAttribute("aria-current", on);
  }
  const none = root.querySelector("[data-no-match]");
  if (none) none.hidden = n > 0;
}

export function startFilters() {
  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-filter]")) return;
    chosen.text = event.target.value;
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
      chosen.states[on ? "add" : "delete"](count.dataset.state);
      apply();
    }
    const node = event.target.closest(".node[data-group]");
    if (node) {
      event.preventDefault();
      chosen.group = chosen.group === node.dataset.group ? "" : node.dataset.group;
      apply();
      document.getElementById("jobs")?.scrollIntoView({ block: "start" });
    }
  });
  // A page that is about to be shown is filtered first.
  document.addEventListener("kiln:fresh", (event) => apply(event.detail));
  document.addEventListener("kiln:changed", () => apply());
}
