// Changes one tree into another where they differ, so that what is the same stays: focus,
// selection, scroll, open details, running animations.
//
// Elements with an `id` or a `data-key` are found again wherever they went; others by their place.
// An element with `data-keep` keeps its children and the attributes that only it has: a script owns
// them.

const keyOf = (node) => (node.nodeType === 1 ? node.id || node.getAttribute("data-key") : null);

/** What the reader or a script has set, and the server does not know. */
const isOurs = (element, name) =>
  (name === "open" && /^(DETAILS|DIALOG)$/.test(element.tagName)) ||
  (name === "hidden" && element.hasAttribute("data-name")) ||
  (name === "class" && element.hasAttribute("data-own-class")) ||
  name === "aria-pressed" || name === "data-own-class" || name === "data-here";

/** Makes `from`, which is shown, the same as `to`. */
export function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(document.importNode(to, true));
    return;
  }
  if (from.nodeType !== 1) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  if (from.isEqualNode(to)) return;
  morphAttributes(from, to);
  if (!from.hasAttribute("data-keep")) morphChildren(from, to);
}

function morphAttributes(from, to) {
  for (const { name, value } of to.attributes) {
    if (!isOurs(from, name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  // Whoever owns the children may have set attributes of its own.
  if (from.hasAttribute("data-keep")) return;
  for (const { name } of [...from.attributes]) {
    if (!isOurs(from, name) && !to.hasAttribute(name)) from.removeAttribute(name);
  }
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.childNodes) {
    const key = keyOf(child);
    if (key) keyed.set(key, child);
  }
  let at = from.firstChild;
  for (const want of [...to.childNodes]) {
    const key = keyOf(want);
    let have = key ? keyed.get(key) : at;
    if (key) keyed.delete(key);
    // Without a key: the next old child without one, of the same kind.
    if (!key) while (have && keyOf(have) && keyed.has(keyOf(have))) have = have.nextSibling;
    if (!have || have.nodeName !== want.nodeName || (!key && keyOf(have))) {
      from.insertBefore(document.importNode(want, true), at);
      continue;
    }
    if (have === at) at = at.nextSibling;
    else if (key) from.insertBefore(have, at);
    else {
      // Old keyed children in between are gone or moved; both are handled below.
      from.insertBefore(have, at);
    }
    morph(have, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
