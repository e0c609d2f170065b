// Keeps the page fresh: told by server-sent events that something changed, it fetches this page
// again and changes what differs (morph.js). No reload, no flicker; scroll and focus stay.
//
// A browser opens six connections to one server at most, over all its tabs. So a tab that is not
// seen gives its stream back, and only while something runs looks now and then, so that its icon
// and title tell the end.
import { morph } from "./morph.js";
import { refreshTimes } from "./time.js";

/** Looks of a page that is not seen, while something on it runs. */
const HIDDEN_EVERY_MS = 15_000;
/** Shortest time between two fetches: a burst of events is one change for the eye. */
const REST_MS = 250;

let stream = null;
let fetching = false;
let again = false;
let restTimer = 0;
let hiddenTimer = 0;
let failures = 0;

const main = () => document.getElementById("main");

/** Fetches the page now and shows what changed. */
export async function refresh() {
  if (fetching) {
    again = true;
    return;
  }
  fetching = true;
  again = false;
  const began = performance.now();
  try {
    const answer = await fetch(location.href.split("#")[0], { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    failures = 0;
    told("");
  } catch {
    failures += 1;
    told("Connection lost, trying again");
    again = true;
  }
  // A page that is slow to make is asked for less often: at most a quarter of the time.
  const rest = Math.max(REST_MS, 3 * (performance.now() - began)) * 2 ** Math.min(failures, 6);
  restTimer = setTimeout(() => {
    fetching = false;
    if (again && !document.hidden) refresh();
  }, rest);
}

function show(page) {
  const fresh = page.getElementById("main");
  if (!fresh) return;
  // Words are made relative before they are shown, so that nothing jumps.
  refreshTimes(page);
  document.dispatchEvent(new CustomEvent("kiln:fresh", { detail: page }));
  morph(main(), fresh);
  const trail = page.getElementById("trail");
  if (trail) morph(document.getElementById("trail"), trail);
  if (document.title !== page.title) document.title = page.title;
  const icon = (root) => root.querySelector("link[rel=icon]");
  if (icon(page) && icon(document).getAttribute("href") !== icon(page).getAttribute("href")) {
    icon(document).setAttribute("href", icon(page).getAttribute("href"));
  }
  document.dispatchEvent(new CustomEvent("kiln:changed"));
}

function told(trouble) {
  const pulse = document.getElementById("pulse");
  const live = main().hasAttribute("data-live");
  pulse.hidden = !trouble && !live;
  pulse.classList.toggle("is-away", Boolean(trouble));
  const text = trouble || "Live";
  if (pulse.textContent !== text) pulse.textContent = text;
}

function connect() {
  const address = main()?.dataset.events;
  if (!address || stream) return;
  stream = new EventSource(address);
  let opened = false;
  stream.addEventListener("open", () => {
    // What happened while nobody listened was not heard.
    if (opened) refresh();
    opened = true;
    told("");
  });
  stream.addEventListener("changed", () => refresh());
  stream.addEventListener("error", () => {
    told("Connection lost, trying again");
    // A refused stream does not come back by itself.
    if (stream?.readyState === EventSource.CLOSED) {
      stream = null;
      setTimeout(() => !document.hidden && connect(), 5_000);
    }
  });
}

function disconnect() {
  stream?.close();
  stream = null;
}

function lookWhileHidden() {
  clearTimeout(hiddenTimer);
  if (!document.hidden || !main().hasAttribute("data-live")) return;
  hiddenTimer = setTimeout(async () => {
    await refresh();
    lookWhileHidden();
  }, HIDDEN_EVERY_MS);
}

export function startLive() {
  if (!main()?.dataset.events) return;
  told("");
  document.addEventListener("kiln:refresh", () => refresh());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      disconnect();
      lookWhileHidden();
    } else {
      clearTimeout(hiddenTimer);
      clearTimeout(restTimer);
      fetching = false;
      connect();
      refresh();
    }
  });
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => event.persisted && (connect(), refresh()));
  if (!document.hidden) connect();
}
