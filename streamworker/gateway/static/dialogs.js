// Dialogs: questions before something is done, and the list of the keys.

import { make } from "./dom.js";

let open = null;

/** Whether a dialog is open. */
export const isOpen = () => open !== null;

/** Show `content` as a modal dialog named by its heading; resolves with the value it is closed with, "" for Escape. */
export function present(heading, content, { wide = false, closed = () => {} } = {}) {
  open?.close("");
  const title = make("h2", { id: "dialog-title" }, heading);
  const cross = make("button.icon-button", { type: "button", "aria-label": "Close", click: () => dialog.close("") }, "×");
  const dialog = make(wide ? "dialog.wide" : "dialog", { "aria-labelledby": "dialog-title" }, make("header", {}, title, cross), content);
  const before = document.activeElement;
  document.body.append(dialog);
  open = dialog;
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(""); // the backdrop
  });
  const result = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (open === dialog) open = null;
      if (before?.isConnected && before !== document.body) before.focus({ preventScroll: true });
      // What had the focus is gone: a keyboard goes on in the content, not at the top of the page.
      else if (document.activeElement === document.body) document.getElementById("main").focus({ preventScroll: true });
      closed();
      resolve(dialog.returnValue);
    });
  });
  dialog.showModal();
  return { dialog, result };
}

/** Ask before something is done; true when it is wanted. `verb` is what the button says. */
export async function confirm(heading, explanation, verb, { dangerous = false } = {}) {
  const yes = make(`button.button.${dangerous ? "danger" : "primary"}`, { type: "submit", value: "yes", "data-confirm": true }, verb);
  const no = make("button.button", { type: "submit", value: "", autofocus: dangerous }, "Keep as it is");
  const form = make("form", { method: "dialog" }, make("p", {}, explanation), make("div.buttons", {}, no, yes));
  const { dialog, result } = present(heading, form);
  (dangerous ? no : yes).focus();
  dialog.returnValue = "";
  return (await result) === "yes";
}

/** Close what is open. */
export const dismiss = () => open?.close("");
