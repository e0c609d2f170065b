// From the place of a scroll bar to a place in a log, for logs higher than a browser can scroll.
//
// Browsers limit the height of an element (17 million pixels and more); a log of 25 million lines
// would be 500 million high. So above HEIGHT_MAX the height stands still and is mapped: the first
// and the last quarter pixel for pixel, and between them each pixel of the bar stands for many. There a
// small movement (wheel, finger, arrow key) still moves by its own pixels, and only a large one
// (the bar dragged, a click on it) jumps by the map. Pure: no document here.

export const HEIGHT_MAX = 8_000_000;
const EDGE = HEIGHT_MAX / 4;

/** Height to give the scrolled element, for a content of `full` pixels. */
export const barHeight = (full) => Math.min(full, HEIGHT_MAX);

/** Where the content is when the bar is at `y`. */
export function toContent(y, full) {
  if (full <= HEIGHT_MAX || y <= EDGE) return y;
  if (y >= HEIGHT_MAX - EDGE) return full - (HEIGHT_MAX - y);
  return EDGE + ((y - EDGE) * (full - 2 * EDGE)) / (HEIGHT_MAX - 2 * EDGE);
}

/** Where the bar is when the content is at `top`: the inverse. */
export function toBar(top, full) {
  if (full <= HEIGHT_MAX || top <= EDGE) return top;
  if (top >= full - EDGE) return HEIGHT_MAX - (full - top);
  return EDGE + ((top - EDGE) * (HEIGHT_MAX - 2 * EDGE)) / (full - 2 * EDGE);
}

/** The content's new place after the bar went from `before` to `after`, `seen` pixels being seen. */
export function moved(top, before, after, full, seen) {
  const step = after - before;
  const isEdge = after <= EDGE || after >= HEIGHT_MAX - EDGE;
  if (full <= HEIGHT_MAX || isEdge || Math.abs(step) > 3 * seen) return toContent(after, full);
  return Math.min(Math.max(top + step, 0), full - seen);
}
