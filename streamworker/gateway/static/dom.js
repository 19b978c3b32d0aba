// Makes and changes nodes; every text becomes a text node, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `make("td.number", {title: "…"}, "text", node, …)`; functions become listeners, null and false are left out. */
export function make(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  return dress(node, attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

/** Set a node's text, touching the document only where it differs. */
export function setText(node, text) {
  const wanted = String(text);
  const only = node.firstChild;
  if (only && only === node.lastChild && only.nodeType === Node.TEXT_NODE) {
    if (only.data !== wanted) only.data = wanted;
  } else if (only || wanted) {
    node.textContent = wanted;
  }
}

/** Set an attribute, or take it away with null, touching the document only where it differs. */
export function setAttribute(node, name, value) {
  if (value == null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, String(value));
  }
}

/** Set a custom property of a node's style. */
export function setProperty(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

/** Make these nodes the content of a note; where it says the same already it stays: nothing is read out again, and the focus is kept. */
export function tell(note, ...parts) {
  if (note.textContent !== parts.map((part) => part.textContent).join("")) note.replaceChildren(...parts);
}

/** Show or hide a node. */
export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/** Make the children of `parent` exactly these nodes in this order, moving as few as possible. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let place = parent.firstElementChild;
  for (const node of nodes) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
}

const PATHS = {
  pending: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11",
  processing: "M8 2.5a5.5 5.5 0 0 1 5.5 5.5",
  completed: "M4 8.5l2.7 2.7L12 5.5",
  failed: "M4.8 4.8l6.4 6.4M11.2 4.8l-6.4 6.4",
  cancelled: "M4 8h8",
  back: "M10 3.5 5.5 8l4.5 4.5",
  next: "M6 3.5 10.5 8 6 12.5",
};

/** A small line drawing: one of the statuses, `back` or `next`. */
export function icon(name) {
  const lines = [draw("path", { d: PATHS[name] ?? PATHS.pending })];
  if (name === "processing") lines.unshift(draw("path", { d: PATHS.pending, class: "faint" }));
  return draw("svg", { viewBox: "0 0 16 16", class: `icon icon-${name}`, "aria-hidden": "true" }, ...lines);
}

/** A status with its sign; `update(status)` changes it. */
export function badge(status = "pending") {
  const node = make("span.badge");
  const words = make("span");
  const update = (next) => {
    if (node.dataset.status === next) return;
    node.dataset.status = next;
    node.replaceChildren(icon(next), words);
    setText(words, next);
  };
  update(status);
  return { node, update };
}

/** A progress bar of succeeded and failed parts; `update(succeeded, failed, total, status)` moves it. */
export function bar(label) {
  const good = make("span.good");
  const bad = make("span.bad");
  const node = make("span.bar", { role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 }, good, bad);
  const update = (succeeded, failed, total, status) => {
    const whole = total || 1;
    setProperty(good, "--part", (succeeded / whole).toFixed(5));
    setProperty(bad, "--part", (failed / whole).toFixed(5));
    setProperty(bad, "--before", (succeeded / whole).toFixed(5));
    setAttribute(node, "aria-valuenow", Math.floor((100 * (succeeded + failed)) / whole));
    setAttribute(node, "data-status", status);
  };
  return { node, update };
}
