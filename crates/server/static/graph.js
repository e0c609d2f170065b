// The graph is drawn by the server. Here: what a job needs and what needs it light up under the
// pointer or the focus, and a wide graph can be made to fit.

/** All jobs before and after one, itself included, given pairs of positions. */
export function related(lines, at) {
  const reach = (from, to) => {
    const seen = new Set([at]);
    const todo = [at];
    while (todo.length) {
      const job = todo.pop();
      for (const line of lines) {
        if (line[from] === job && !seen.has(line[to])) {
          seen.add(line[to]);
          todo.push(line[to]);
        }
      }
    }
    return seen;
  };
  return { before: reach(1, 0), after: reach(0, 1) };
}

function trace(graph, node) {
  const paths = [...graph.querySelectorAll(".line")];
  const ends = (path) => [Number(path.dataset.from), Number(path.dataset.to)];
  const { before, after } = related(paths.map(ends), Number(node.dataset.at));
  graph.classList.add("is-traced");
  for (const other of graph.querySelectorAll(".node")) {
    const at = Number(other.dataset.at);
    other.classList.toggle("is-on", before.has(at) || after.has(at));
  }
  for (const path of paths) {
    const [from, to] = ends(path);
    path.classList.toggle("is-on", (before.has(from) && before.has(to)) || (after.has(from) && after.has(to)));
  }
}

export function startGraph() {
  const over = (event) => {
    const node = event.target.closest?.(".graph .node");
    if (node) trace(node.closest(".graph"), node);
  };
  const out = (event) => {
    const graph = event.target.closest?.(".graph");
    if (graph && !event.relatedTarget?.closest?.(".node")) graph.classList.remove("is-traced");
  };
  document.addEventListener("pointerover", over);
  document.addEventListener("pointerout", out);
  document.addEventListener("focusin", over);
  document.addEventListener("focusout", out);

  const graph = document.querySelector(".graph");
  const fit = document.querySelector("[data-fit]");
  if (!graph || !fit) return;
  graph.dataset.ownClass = "";
  const offer = () => {
    const wide = graph.firstElementChild.getAttribute("width") > graph.clientWidth;
    fit.hidden = !wide && fit.getAttribute("aria-pressed") !== "true";
  };
  fit.dataset.name = "";
  fit.addEventListener("click", () => {
    const on = graph.classList.toggle("is-fit");
    fit.setAttribute("aria-pressed", on);
  });
  new ResizeObserver(offer).observe(graph);
}
