// One item in full, in a dialog: what became of it, its result, its payload, its checkpoint.

import { badge, make } from "./dom.js";
import { between, block, elapsed, line, moment, plural } from "./format.js";
import { confirm, present } from "./dialogs.js";
import { pretty } from "./json.js";
import { address, get, post } from "./rest.js";
import { answered } from "./toast.js";

/** Open the dialog; `closed` is called when it is closed. */
export async function showItem(batch, position, world, closed) {
  const body = make("div.item", {}, make("p.empty", { role: "status" }, "Reading…"));
  present(`Item ${position.toLocaleString("en")}`, body, { wide: true, closed });
  try {
    const item = await get(`api/batches/${encodeURIComponent(batch.id)}/items/${position}`);
    body.replaceChildren(...parts(batch, item, world));
  } catch (error) {
    body.replaceChildren(make("p.empty", {}, error.status === 404 ? "There is no item at this position." : `The item cannot be read: ${line(error.message)}.`));
  }
}

function parts(batch, item, world) {
  const state = badge(item.status);
  const took = item.started_at && item.finished_at ? between(item.started_at, item.finished_at) : null;
  const facts = [plural(item.attempts, "attempt"), item.finished_at ? `ended ${moment(item.finished_at)}` : item.started_at && `started ${moment(item.started_at)}`, took != null && `took ${elapsed(took)}`];
  const retry = make("button.button.primary", { type: "button", "data-action": "retry-item", click: () => ask(batch, item) }, "Retry this item");
  const may = world.live.role === "operator" && batch.ended && ["failed", "cancelled"].includes(item.status);
  const picture = make("img.picture", { src: address(`api/batches/${batch.id}/items/${item.position}/thumbnail`), alt: `Thumbnail of ${line(item.key, 100)}`, error: () => picture.remove() });
  const head = make("div.item-head", {}, make("div", {}, make("p.key", {}, make("bdi", {}, line(item.key, 512))), make("p.sub", {}, state.node, facts.filter(Boolean).join(" · ")), may ? retry : null), item.result == null ? null : picture);
  const sections = [head];
  if (item.error) sections.push(make("h3", {}, "Error"), make("pre.text.bad", { tabindex: "0" }, make("bdi", {}, block(item.error))));
  for (const [name, words] of [["result", "Result"], ["payload", "Payload"], ["checkpoint", "Checkpoint"]]) {
    if (item[name] != null) sections.push(make("h3", {}, words), pretty(item[name]));
  }
  return sections;
}

async function ask(batch, item) {
  const words = `${line(item.key, 100)} will be tried again, with fresh attempts. Everything else of the batch stays as it is.`;
  if (!(await confirm("Retry this item?", words, "Retry this item"))) return;
  await answered(() => post(`api/batches/${batch.id}/retry`, { position: item.position }), ({ retried }) => (retried ? `Item ${item.position} will be tried again.` : `Item ${item.position} had nothing to retry.`));
}
