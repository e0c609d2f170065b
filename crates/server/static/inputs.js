// The form of a manual run: branch and the inputs that the manifest of that branch declares.
import { complaint, post } from "./action.js";

/** The values to send: what is empty and not required is left to its default. */
export function collect(fields) {
  const values = {};
  for (const { name, kind, required, element } of fields) {
    if (kind === "boolean") values[name] = String(element.checked);
    else if (element.value !== "" || required) values[name] = element.value;
  }
  return values;
}

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

/** An element for one declared input, filled with the value given before or the default. */
function field(input, given) {
  const value = given ?? input.default ?? "";
  let element;
  if (input.kind === "choice") {
    const options = input.options.map((text) => make("option", { value: text, textContent: text }));
    if (!input.required && input.default === null) options.unshift(make("option", { value: "", textContent: "" }));
    element = make("select", {}, ...options);
    if (value !== "") element.value = value;
  } else if (input.kind === "boolean") {
    element = make("input", { type: "checkbox", checked: value === "true" });
  } else {
    element = make("input", { type: input.kind === "number" ? "number" : "text", value, autocomplete: "off" });
    if (input.kind === "number") element.step = "1";
  }
  if (input.kind !== "boolean") element.required = input.required;
  const name = make("b", {}, make("bdi", { textContent: input.name }), input.required && input.kind !== "boolean" ? " *" : "");
  const help = input.description ? [make("span", { className: "sub", textContent: input.description })] : [];
  const label = input.kind === "boolean"
    ? make("label", { className: "field check" }, element, name, ...help)
    : make("label", { className: "field" }, name, element, ...help);
  return { name: input.name, kind: input.kind, required: input.required, element, label };
}

function open({ inputs: api, branch, tag, commit, values }) {
  const given = JSON.parse(values || "{}");
  const dialog = make("dialog", { ariaLabel: "Run" });
  const title = make("h2", { textContent: commit ? "Run this commit again" : "Start a run" });
  const branchBox = make("input", { type: "text", value: branch ?? "", placeholder: "Default branch", autocomplete: "off", spellcheck: false });
  const place = make("div", { className: "fields" });
  const trouble = make("p", { className: "field-error", role: "alert" });
  const start = make("button", { className: "button primary", textContent: "Run" });
  const leave = make("button", { type: "button", className: "button", textContent: "Cancel" });
  const form = make("form", { method: "dialog" }, title, place, trouble, make("div", { className: "dialog-actions" }, leave, start));
  dialog.append(form);
  const anewBox = make("input", { type: "checkbox", name: "no_cache" });
  const anew = make("label", { className: "field check" }, anewBox, make("b", { textContent: "Take nothing from earlier runs" }),
    make("span", { className: "sub", textContent: "Every job runs, without results and caches of before." }));
  let fields = [];
  let asked = 0;

  const load = async () => {
    const turn = ++asked;
    trouble.textContent = "";
    // A commit is run with its own manifest, wherever its branch is now.
    const of = commit ? { commit } : branchBox.value ? { branch: branchBox.value } : {};
    const answer = await fetch(`${api}/inputs?${new URLSearchParams(of)}`).catch(() => null);
    const body = await answer?.json().catch(() => null);
    if (turn !== asked) return;
    if (!answer?.ok) {
      trouble.textContent = answer ? complaint(body, answer.status) : "The server cannot be reached.";
      fields = [];
    } else {
      fields = body.map((input) => field(input, given[input.name]));
    }
    const first = commit ? [] : [make("label", { className: "field" }, make("b", { textContent: "Branch" }), branchBox)];
    const focused = document.activeElement === branchBox;
    place.replaceChildren(...first, ...fields.map((one) => one.label));
    if (!commit && !fields.length && answer?.ok) place.append(make("p", { className: "sub", textContent: "The manifest declares no inputs." }));
    place.append(anew);
    if (focused || !dialog.contains(document.activeElement)) branchBox.focus();
    // The first thing to fill in; the dialog itself has put the focus on its first button.
    else if (document.activeElement === leave) (place.querySelector("input:not([name=no_cache]), select") ?? start).focus();
  };

  branchBox.addEventListener("change", load);
  leave.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    start.disabled = true;
    trouble.textContent = "";
    try {
      const body = { inputs: collect(fields) };
      if (branchBox.value) body.branch = branchBox.value;
      if (anewBox.checked) body.no_cache = true;
      if (tag) body.tag = tag;
      if (commit) body.commit = commit;
      const run = await post(`${api}/runs`, body);
      location.href = `/p/${encodeURIComponent(run.project)}/${run.number}`;
    } catch (error) {
      trouble.textContent = error.message;
      start.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  load();
}

export function startInputs() {
  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-inputs]");
    if (!form) return;
    event.preventDefault();
    open(form.dataset);
  });
}
