// Short answers at the edge of the page, and what is only said to those who listen.

import { make } from "./dom.js";
import { line } from "./format.js";

const STAYS = { good: 6000, bad: 15000 };
const MOST = 4;

/** Show an answer, in a region that is there before it, so that it is read out; `kind` is `good` or `bad`. It can be closed, and goes by itself. */
export function toast(text, kind = "good") {
  const place = document.getElementById("toasts");
  const close = () => node.remove();
  const button = make("button.icon-button", { type: "button", "aria-label": "Close", click: close }, "×");
  const node = make("div.toast", { "data-kind": kind }, make("p", {}, make("bdi", {}, line(text, 400))), button);
  place.append(node);
  while (place.children.length > MOST) place.firstElementChild.remove();
  let timer = setTimeout(close, STAYS[kind]);
  node.addEventListener("pointerenter", () => clearTimeout(timer));
  node.addEventListener("pointerleave", () => (timer = setTimeout(close, STAYS[kind])));
}

/** Say something to screen readers only. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** Do something and show its answer: `words(answer)` is the sentence for a good one. Returns the answer, or null. */
export async function answered(work, words) {
  try {
    const answer = await work();
    toast(answer?.at_work ? `Begun: ${answer.at_work}.` : words(answer));
    return answer;
  } catch (error) {
    toast(`Not done: ${error.message}`, "bad");
    return null;
  }
}
