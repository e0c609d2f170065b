// Makes times relative ("3 min ago") and lets the durations of what still runs tick.
//
// The server's clock counts: the difference to ours is taken when the page loads. A timer exists
// only while the page is seen and something on it changes: every second when something runs, else
// once a minute for the relative times.

const skewMs = Number(document.documentElement.dataset.now) - Date.now();

/** The server's time, in milliseconds since the epoch. */
export const now = () => Date.now() + skewMs;

/** A duration as the server shows it: `38ms`, `4.2s`, `3m 07s`, `2h 05m`. */
export function showDuration(ms) {
  ms = Math.max(0, Math.round(ms));
  if (ms < 1000) return `${ms}ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)}s`;
  if (ms < 3_600_000) {
    const s = Math.floor((ms + 500) / 1000);
    return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  }
  return `${Math.floor(ms / 3_600_000)}h ${String(Math.floor(ms / 60_000) % 60).padStart(2, "0")}m`;
}

/** A duration that still grows: whole seconds, so that it does not flicker. */
export function showTicking(ms) {
  return ms < 59_500 ? `${Math.max(0, Math.floor(ms / 1000))}s` : showDuration(Math.floor(ms / 1000) * 1000);
}

/** How long ago something was. Within the minute it is just now: nobody wants it to tick. */
export function showAgo(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ago`;
  const days = Math.floor(hours / 24);
  if (days < 30) return days === 1 ? "yesterday" : `${days} days ago`;
  return null;
}

/** Brings all times and durations under `root` up to date. Also used on pages not yet shown. */
export function refreshTimes(root = document) {
  const at = now();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const then = Date.parse(time.dateTime ?? time.getAttribute("datetime"));
    if (Number.isNaN(then)) continue;
    const text = showAgo(at - then) ?? time.dateTime.slice(0, 10);
    if (time.textContent !== text) time.textContent = text;
  }
  for (const span of root.querySelectorAll("[data-since]")) {
    const text = showTicking(at - Number(span.dataset.since));
    if (span.textContent !== text) span.textContent = text;
  }
}

/** Calls `work` while it has something to do and the page is seen. */
export function whileSeen(everyMs, isNeeded, work) {
  let timer = 0;
  const tick = () => {
    timer = 0;
    if (document.hidden) return;
    work();
    plan();
  };
  const plan = () => {
    if (!timer && !document.hidden && isNeeded()) timer = setTimeout(tick, everyMs);
  };
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("kiln:changed", plan);
  plan();
}

export function startTimes() {
  refreshTimes();
  whileSeen(1_000, () => document.querySelector("[data-since]"), () => refreshTimes());
  whileSeen(60_000, () => document.querySelector("time"), () => refreshTimes());
}
