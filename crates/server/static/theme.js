// Chooses light or dark before the page is painted, so that it does not flash. Not a module: a
// module would come too late. Without this script the system's choice holds.
(() => {
  const root = document.documentElement;
  root.dataset.script = "";
  const words = { light: "light", dark: "dark" };
  const read = () => {
    try {
      return words[localStorage.getItem("theme")] ?? "";
    } catch {
      return ""; // Storage may be forbidden: then the choice lasts as long as the page.
    }
  };
  const set = (choice) => {
    if (choice) root.dataset.theme = choice;
    else delete root.dataset.theme;
    const button = document.getElementById("theme");
    if (!button) return;
    const text = `Colours: ${choice || "as the system"}`;
    button.title = text;
    button.setAttribute("aria-label", text);
  };
  set(read());
  const next = () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    // The first press always changes what is seen.
    const order = dark ? ["", "light", "dark"] : ["", "dark", "light"];
    const now = root.dataset.theme ?? "";
    const choice = order[(order.indexOf(now) + 1) % order.length];
    try {
      if (choice) localStorage.setItem("theme", choice);
      else localStorage.removeItem("theme");
    } catch {
      // As above.
    }
    set(choice);
  };
  document.addEventListener("DOMContentLoaded", () => {
    set(read() || (root.dataset.theme ?? ""));
    document.getElementById("theme")?.addEventListener("click", next);
  });
  document.addEventListener("kiln:theme", next);
})();
