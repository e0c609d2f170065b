// A line of a terminal's output as pieces of text with a style. Pure: no document here.
//
// Understood: SGR (16, 256 and true colours, bold, dim, italic, underline, inverse, strike), a
// carriage return (what was written before it on the line is gone: progress bars fold to their
// last state), backspace. Every other escape sequence and control character is left out. The text
// is never HTML: whoever shows it makes text nodes.

/** How text looks. Colours: null, 0–255 of the palette, or a CSS colour. */
export const PLAIN = Object.freeze({
  bold: false, dim: false, italic: false, underline: false, inverse: false, strike: false, fg: null, bg: null,
});

// One escape sequence: CSI; a string for the terminal (OSC, DCS, …) to its end; a character set;
// any other two characters; or one cut off by the end of the line.
const SEQUENCE =
  /\x1b(?:\[([0-9:;<=>?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$|(?=\x1b))|[()*+#%][^]|\[[^@-~]*$|[^[\]PX^_()*+#%]|$)/g;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/g;
// Direction overrides can make a line read as what it is not.
const DIRECTION = /[\u202a-\u202e\u2066-\u2069]/g;

/** Splits a line. `style` is how it begins; the result's `style` is how the next one begins. */
export function parseLine(line, style = PLAIN) {
  const pieces = [];
  const text = line.endsWith("\r") ? line.slice(0, -1) : line;
  // Nearly all lines of nearly all logs.
  if (!/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/.test(text)) {
    if (text) pieces.push({ text, style });
    return { pieces, style };
  }
  let at = 0;
  SEQUENCE.lastIndex = 0;
  for (let found = SEQUENCE.exec(text); found; found = SEQUENCE.exec(text)) {
    write(pieces, text.slice(at, found.index), style);
    at = found.index + found[0].length;
    if (found[2] === "m") style = applySgr(style, found[1]);
    if (!found[0]) break;
  }
  write(pieces, text.slice(at), style);
  return { pieces, style };
}

function write(pieces, text, style) {
  const turn = text.lastIndexOf("\r");
  if (turn >= 0) {
    pieces.length = 0;
    text = text.slice(turn + 1);
  }
  while (text.includes("\b")) {
    const at = text.indexOf("\b");
    const last = pieces.at(-1);
    if (at === 0 && last) {
      last.text = last.text.slice(0, -1);
      if (!last.text) pieces.pop();
    }
    text = text.slice(0, Math.max(at - 1, 0)) + text.slice(at + 1);
  }
  text = text.replace(CONTROL, "").replace(DIRECTION, "\ufffd");
  if (text) pieces.push({ text, style });
}

const FLAGS = {
  1: { bold: true }, 2: { dim: true }, 3: { italic: true }, 4: { underline: true }, 7: { inverse: true },
  9: { strike: true }, 21: { underline: true }, 22: { bold: false, dim: false }, 23: { italic: false },
  24: { underline: false }, 27: { inverse: false }, 29: { strike: false }, 39: { fg: null }, 49: { bg: null },
};

function applySgr(style, parameters) {
  if (/[<=>?]/.test(parameters)) return style;
  // Both `38;5;1` and `38:5:1` (also `38:2::r:g:b`) are in use.
  const codes = parameters.split(";").map((part) => part.split(":"));
  for (let at = 0; at < codes.length; at += 1) {
    const code = Number(codes[at][0] || 0);
    if (code === 38 || code === 48) {
      const inner = codes[at].length > 1;
      const rest = inner ? colonColour(codes[at].slice(1)) : codes.slice(at + 1, at + 5).map((c) => c[0]);
      const [colour, used] = extendedColour(rest.map(Number));
      if (!inner) at += used;
      if (colour !== undefined) style = { ...style, [code === 38 ? "fg" : "bg"]: colour };
    } else if (code === 0) {
      style = PLAIN;
    } else if (code === 4 && codes[at][1] === "0") {
      style = { ...style, underline: false };
    } else if (FLAGS[code]) {
      style = { ...style, ...FLAGS[code] };
    } else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) {
      style = { ...style, fg: code < 90 ? code - 30 : code - 82 };
    } else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) {
      style = { ...style, bg: code < 100 ? code - 40 : code - 92 };
    }
  }
  return style;
}

/** `2:<space>:r:g:b` has one number more than `2;r;g;b`. */
const colonColour = (parts) => (parts[0] === "2" && parts.length > 4 ? ["2", ...parts.slice(2)] : parts);

/** A colour and how many numbers it took. */
function extendedColour([kind, ...rest]) {
  const byte = (n) => Number.isInteger(n) && n >= 0 && n <= 255;
  if (kind === 5) return [byte(rest[0]) ? rest[0] : undefined, 2];
  if (kind === 2) {
    const rgb = rest.slice(0, 3);
    return [rgb.length === 3 && rgb.every(byte) ? `rgb(${rgb.join(",")})` : undefined, 4];
  }
  return [undefined, 1];
}

/** Colours 16–255 of the palette as CSS; the first 16 are the theme's. */
export function paletteColour(n) {
  if (n >= 232) {
    const grey = 8 + (n - 232) * 10;
    return `rgb(${grey},${grey},${grey})`;
  }
  const step = (part) => (part ? 55 + part * 40 : 0);
  const at = n - 16;
  return `rgb(${step(Math.floor(at / 36))},${step(Math.floor(at / 6) % 6)},${step(at % 6)})`;
}

/** Classes and colours of a style: `{ className, color, background }`. */
export function look(style) {
  const names = [];
  for (const flag of ["bold", "dim", "italic", "underline", "strike"]) if (style[flag]) names.push(`a-${flag}`);
  let { fg, bg } = style;
  if (style.inverse) {
    [fg, bg] = [bg ?? "var(--log-ground)", fg ?? "var(--log-ink)"];
  }
  const shown = { className: "", color: "", background: "" };
  if (typeof fg === "number" && fg < 16) names.push(`a-f${fg}`);
  else if (fg !== null) shown.color = typeof fg === "number" ? paletteColour(fg) : fg;
  if (typeof bg === "number" && bg < 16) names.push(`a-g${bg}`);
  else if (bg !== null) shown.background = typeof bg === "number" ? paletteColour(bg) : bg;
  shown.className = names.join(" ");
  return shown;
}
