// One key each for what people do most. The list is in the help dialog (`?`); the log has its own
// keys in log-view.js. Nothing happens while somebody types in a field.
import { openPalette } from "./palette.js";

const isTyping = (event) => event.target.closest?.("input, textarea, select, [contenteditable]");

let pending = "";
let pendingTimer = 0;

function move(step) {
  const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + step, 0), rows.length - 1);
  rows[next].focus();
  rows[next].closest("li")?.scrollIntoView({ block: "nearest" });
}

const follow = (selector) => document.querySelector(selector)?.click();

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  u: () => {
    const links = document.querySelectorAll("#trail a");
    links[links.length - 2]?.click();
  },
  t: () => document.dispatchEvent(new CustomEvent("kiln:theme")),
  "?": () => document.getElementById("help").showModal(),
  "/": () => document.querySelector("log-view [type=search], [data-filter], .filters [type=search]")?.focus(),
  "[": () => follow("[data-before]"),
  "]": () => follow("[data-after]"),
  "g p": () => { location.href = "/"; },
  "g r": () => document.querySelectorAll("#trail a")[1]?.click(),
};

export function startKeys() {
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      openPalette();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.key === "Escape" && isTyping(event)) event.target.blur();
    if (isTyping(event) || document.querySelector("dialog[open]")) return;
    const key = pending ? `${pending} ${event.key}` : event.key;
    pending = "";
    clearTimeout(pendingTimer);
    if (event.key === "g" && key === "g") {
      pending = "g";
      pendingTimer = setTimeout(() => { pending = ""; }, 1_200);
      return;
    }
    if (!KEYS[key]) return;
    event.preventDefault();
    KEYS[key]();
  });
}
