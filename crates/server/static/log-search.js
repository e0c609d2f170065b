// Finding text in a log. The server searches; here are what was found, where the reader is in it,
// and asking for more at the end of what is known.

/** One search at a time over the lines of a log (log-lines.js). */
export class LogSearch {
  needle = "";
  #source;
  #lines = [];
  #more = false;
  #failed = false;
  #at = -1;

  constructor(source) {
    this.#source = source;
  }

  /** The line of the match that is shown, if any. */
  get line() {
    return this.#lines[this.#at];
  }

  /** Looks for a text from the start. Gives false when another search has begun meanwhile. */
  async begin(needle) {
    this.needle = needle;
    this.#lines = [];
    this.#more = false;
    this.#failed = false;
    this.#at = -1;
    if (needle) await this.#fetch(0);
    return this.needle === needle;
  }

  /** Goes to the next match or the one before; first to the nearest to line `here`. */
  async step(by, here) {
    const n = this.#lines.length;
    if (!n) return;
    if (this.#at < 0) {
      const after = this.#lines.findIndex((line) => line >= here);
      if (by > 0) this.#at = after < 0 ? 0 : after;
      else this.#at = after < 0 ? n - 1 : Math.max(after - 1, 0);
      return;
    }
    if (by > 0 && this.#at === n - 1 && this.#more) {
      await this.#fetch(this.#lines[n - 1] + 1);
      this.#at = Math.min(this.#at + 1, this.#lines.length - 1);
      return;
    }
    this.#at = (this.#at + by + n) % n;
  }

  /** `3 of 17`, for the reader. */
  told() {
    if (!this.needle) return "";
    if (this.#failed) return "The search failed";
    if (!this.#lines.length) return "No match";
    const count = (n) => n.toLocaleString("en");
    return `${count(this.#at + 1)} of ${count(this.#lines.length)}${this.#more ? "+" : ""}`;
  }

  async #fetch(from) {
    const needle = this.needle;
    try {
      const found = await this.#source.search(needle, from);
      if (this.needle !== needle) return;
      this.#lines = this.#lines.concat(found.lines);
      this.#more = found.more;
    } catch {
      if (this.needle === needle) this.#failed = true;
    }
  }
}
