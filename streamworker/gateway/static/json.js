// Shows a JSON value: indented, its keys told from its values, and long texts cut.

import { make } from "./dom.js";
import { block } from "./format.js";

const LONG = 2000; // characters of one text
const LINES = 3000;
const PART = /^(\s*)("(?:[^"\\]|\\.)*"(?=: ))?(:? ?)(.*)$/s;

/** A block with the value, and a button that copies it as it is. */
export function pretty(value) {
  const lines = JSON.stringify(value, shorten, 2).split("\n");
  const shown = lines.slice(0, LINES);
  const body = make("code");
  for (const each of shown) {
    const [, indent, key, colon, rest] = PART.exec(each);
    if (key) body.append(indent, make("span.json-key", {}, block(key)), colon, kind(rest), "\n");
    else body.append(indent, kind(colon + rest), "\n");
  }
  if (lines.length > LINES) body.append(`… ${lines.length - LINES} lines more`);
  const copy = make("button.link.copy", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(JSON.stringify(value, null, 2));
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Not allowed here";
    }
  });
  return make("div.json", {}, copy, make("pre", { tabindex: "0" }, body));
}

function kind(text) {
  const safe = block(text);
  if (/^"/.test(safe)) return make("span.string", {}, safe);
  return /^[-\dtfn]/.test(safe) ? make("span.literal", {}, safe) : safe;
}

function shorten(_key, value) {
  if (typeof value !== "string") return value;
  if (/^data:[\w/+.-]+;base64,/.test(value)) return `${value.slice(0, value.indexOf(",") + 1)}… (${value.length} characters)`;
  return value.length > LONG ? `${value.slice(0, LONG)}… (${value.length} characters)` : value;
}
