// Keyboard shortcuts: single keys where nothing is typed, `g` and a letter to go somewhere; they can be turned off.

import { make } from "./dom.js";
import { isOpen, present } from "./dialogs.js";

const OFF = "streamworker.keys.off";
const GO = { b: "#/", w: "#/workers", d: "#/dead" };
const SHOWN = [
  ["g b", "the list of batches"],
  ["g w", "workers"],
  ["g d", "dead letters"],
  ["j  k", "next and previous row"],
  ["Enter", "open the row"],
  ["n  p", "next and previous page"],
  ["f", "to the filter"],
  ["c", "cancel the batch"],
  ["r", "retry what failed"],
  ["u", "up: back to the list"],
  ["?", "this list"],
  ["Esc", "close what is open"],
];

let going = false;
let actions = {};

/** What single keys do in the view that is shown: {c: function, …}. */
export function setActions(wanted) {
  actions = wanted;
}

/** Show the list of the keys. */
export function showKeys() {
  const rows = SHOWN.map(([keys, what]) => make("div", {}, make("dt", {}, keys.split(/\s+/).map((key) => make("kbd", {}, key))), make("dd", {}, what)));
  const box = make("input", { type: "checkbox", id: "keys-on", change: (event) => remember(!event.target.checked) });
  box.checked = !isOff();
  const content = make("div", {}, make("dl.keys", {}, rows), make("label.check", { for: "keys-on" }, box, "Single-key shortcuts are on"));
  present("Keyboard shortcuts", content);
}

function isOff() {
  try {
    return localStorage.getItem(OFF) === "1";
  } catch {
    return false;
  }
}

function remember(off) {
  try {
    if (off) localStorage.setItem(OFF, "1");
    else localStorage.removeItem(OFF);
  } catch {
    // without storage they are on again with the next visit
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || isOpen() || isOff()) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
  if (going) {
    going = false;
    if (GO[event.key]) {
      event.preventDefault();
      location.hash = GO[event.key];
    }
    return;
  }
  if (event.key === "g") {
    going = true;
    setTimeout(() => (going = false), 1500);
  } else if (event.key === "?") showKeys();
  else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (event.key === "f") document.querySelector("[data-filter] [aria-current], [data-filter] a")?.focus();
  else if (event.key === "u") location.hash = "#/";
  else if (actions[event.key]) actions[event.key]();
  else return;
  event.preventDefault();
});

/** Move the focus from row to row. */
function step(by) {
  const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement.closest("[data-row]") ?? document.activeElement);
  const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  (next.matches("a, button") ? next : next.querySelector("a, button"))?.focus();
}
