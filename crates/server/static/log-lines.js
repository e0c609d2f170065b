// The lines of a log, fetched in blocks when they are wanted, and appended as they come.
//
// Few blocks are kept. At most one request runs; when it ends, the blocks wanted *then* are looked
// at, so a reader who flies past a million lines asks for few of them. Live bytes come by
// server-sent events from an offset. They make lines only where the block before them is kept;
// elsewhere they are counted, and fetched if somebody looks.

const BLOCK = 200;
const BLOCKS_MAX = 60;
/** Longest line that is kept of a live log, in bytes. The rest is in the raw log. */
const LINE_BYTES_MAX = 8_192;

/** Bytes of base64 text. */
export function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < bytes.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/** The unfinished line at the end of a growing log: bytes in, finished lines out. */
export class TailLine {
  #parts = [];
  #kept = 0;
  length = 0;

  constructor(offset) {
    this.offset = offset;
  }

  add(bytes) {
    const room = LINE_BYTES_MAX - this.#kept;
    if (room > 0 && bytes.length) {
      this.#parts.push(bytes.slice(0, room));
      this.#kept += Math.min(room, bytes.length);
    }
    this.length += bytes.length;
  }

  line() {
    const all = new Uint8Array(this.#kept);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    const line = { offset: this.offset, text: new TextDecoder().decode(all) };
    if (this.length > this.#kept) line.cut_from = this.length;
    return line;
  }
}

export class LogLines {
  nLines = 0;
  nBytes = 0;
  over = true;
  /** Whether new lines are to be kept although nobody has fetched the block before them. */
  following = false;
  #address;
  #attempt;
  #changed;
  #blocks = new Map();
  #wanted = [];
  #asking = null;
  #stream = null;
  #tail = null;
  #tailLine = 0;
  #closed = false;

  /** `changed` is called when lines or counts have changed. */
  constructor(address, attempt, changed) {
    this.#address = address;
    this.#attempt = attempt;
    this.#changed = changed;
  }

  /** Learns how long the log is, and listens when it still grows. */
  async open() {
    const first = await this.#window(0, 1);
    if (first.n_lines > 1) await this.#fetchBlock(Math.floor((first.n_lines - 1) / BLOCK));
    if (!this.over) this.#listen();
  }

  close() {
    this.#closed = true;
    this.pause();
  }

  /** Gives the connection back while nobody looks. */
  pause() {
    this.#stream?.close();
    this.#stream = null;
  }

  resume() {
    if (!this.over && !this.#stream && !this.#closed) this.#listen();
  }

  /** A line, or nothing while it is not here. */
  get(n) {
    const block = this.#blocks.get(Math.floor(n / BLOCK));
    return block?.[n % BLOCK];
  }

  /** Asks for these lines, and no longer for those asked for before. */
  want(first, last) {
    this.#wanted = [];
    for (let at = Math.floor(first / BLOCK); at <= Math.floor(last / BLOCK); at += 1) {
      const length = Math.min(BLOCK, this.nLines - at * BLOCK);
      const block = this.#blocks.get(at);
      if (block) {
        // Youngest last.
        this.#blocks.delete(at);
        this.#blocks.set(at, block);
      }
      if (length > 0 && (block?.length ?? 0) < length) this.#wanted.push(at);
    }
    this.#ask();
  }

  /** Lines that contain a text, from a line on. */
  async search(text, from) {
    const query = new URLSearchParams({ q: text, from, attempt: this.#attempt });
    const answer = await fetch(`${this.#address}/search?${query}`);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const body = await answer.json();
    const hits = Array.isArray(body) ? body : body.hits;
    return { lines: hits.map((hit) => hit.line), more: Array.isArray(body) ? hits.length >= 1_000 : Boolean(body.more) };
  }

  async #ask() {
    if (this.#asking || !this.#wanted.length || this.#closed) return;
    const at = this.#wanted.shift();
    this.#asking = this.#fetchBlock(at).catch(() => new Promise((after) => { setTimeout(after, 1_500); }));
    await this.#asking;
    this.#asking = null;
    if (!this.#closed) this.#changed();
    this.#ask();
  }

  async #fetchBlock(at) {
    const window = await this.#window(at * BLOCK, BLOCK);
    // A live line may have come meanwhile; what is longer is newer.
    if (window.lines.length >= (this.#blocks.get(at)?.length ?? 0)) this.#keep(at, window.lines);
  }

  async #window(from, n) {
    const query = new URLSearchParams({ from, n, attempt: this.#attempt });
    const answer = await fetch(`${this.#address}/lines?${query}`);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const window = await answer.json();
    if (!this.#stream) {
      this.nLines = window.n_lines;
      this.nBytes = window.n_bytes;
      this.over = window.over;
    }
    return window;
  }

  #keep(at, lines) {
    this.#blocks.delete(at);
    this.#blocks.set(at, lines);
    for (const oldest of this.#blocks.keys()) {
      if (this.#blocks.size <= BLOCKS_MAX) break;
      this.#blocks.delete(oldest);
    }
  }

  async #listen() {
    if (!this.#tail) await this.#findTail();
    if (this.#stream || this.#closed || document.hidden) return;
    const from = this.#tail.offset + this.#tail.length;
    const query = new URLSearchParams({ from, attempt: this.#attempt });
    this.#stream = new EventSource(`${this.#address}/stream?${query}`);
    this.#stream.addEventListener("log", (event) => {
      this.#append(fromBase64(event.data), Number(event.lastEventId));
      this.#changed();
    });
    this.#stream.addEventListener("end", () => this.#end());
  }

  /** Begins with the last line again, which may have no end yet, when it is short enough. */
  async #findTail() {
    const last = Math.max(this.nLines - 1, 0);
    const line = this.get(last);
    this.#tailLine = last;
    if (!line || line.cut_from === undefined) {
      this.#tail = new TailLine(line?.offset ?? 0);
      return;
    }
    if (await this.#endsWithNewline()) {
      this.#tail = new TailLine(this.nBytes);
      this.#tailLine = this.nLines;
      return;
    }
    this.#tail = new TailLine(line.offset);
    this.#tail.add(new TextEncoder().encode(line.text));
    this.#tail.length = this.nBytes - line.offset;
  }

  async #endsWithNewline() {
    const last = this.nBytes - 1;
    const answer = await fetch(`${this.#address}?attempt=${encodeURIComponent(this.#attempt)}`, {
      headers: { range: `bytes=${last}-${last}` },
    });
    return answer.status === 206 && (await answer.text()) === "\n";
  }

  #append(bytes, end) {
    const here = this.#tail.offset + this.#tail.length;
    // A reconnect may give again what we have.
    const old = here - (end - bytes.length);
    if (old >= bytes.length) return;
    if (old > 0) bytes = bytes.subarray(old);
    for (;;) {
      const newline = bytes.indexOf(10);
      if (newline < 0) break;
      this.#tail.add(bytes.subarray(0, newline));
      this.#put(this.#tailLine, this.#tail);
      this.#tailLine += 1;
      this.#tail = new TailLine(this.#tail.offset + this.#tail.length + 1);
      bytes = bytes.subarray(newline + 1);
    }
    this.#tail.add(bytes);
    if (this.#tail.length) this.#put(this.#tailLine, this.#tail);
    this.nLines = this.#tailLine + (this.#tail.length ? 1 : 0);
    this.nBytes = end;
  }

  #put(n, tail) {
    const at = Math.floor(n / BLOCK);
    let block = this.#blocks.get(at);
    if (!block && n % BLOCK === 0 && this.following) this.#keep(at, block = []);
    if (block && n % BLOCK <= block.length) block[n % BLOCK] = tail.line();
  }

  async #end() {
    this.pause();
    this.over = true;
    await this.#window(Math.max(this.nLines - 1, 0), 1).catch(() => {});
    this.over = true;
    if (!this.#closed) this.#changed();
  }
}
