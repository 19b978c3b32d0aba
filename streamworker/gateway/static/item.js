// One item in full, in a dialog: what became of it, its result, its payload, its checkpoint.

import { badge, make, show, tell } from "./dom.js";
import { between, block, elapsed, line, moment, plural } from "./format.js";
import { confirm, present } from "./dialogs.js";
import { pretty } from "./json.js";
import { throttle } from "./paint.js";
import { address, again, get, post } from "./rest.js";
import { answered } from "./toast.js";

const PARTS = [["result", "Result"], ["payload", "Payload"], ["checkpoint", "Checkpoint"]];

/** The dialog of one item; `closed` is called when it is closed. `changed()` tells it that its batch has changed. */
export class ItemDialog {
  constructor(batch, position, world, closed) {
    Object.assign(this, { batch, position, world });
    this.read = throttle(() => this.#read(), 1000);
    this.body = make("div.item", {}, make("p.empty", { role: "status" }, "Reading…"));
    this.retry = make("button.button.primary", { type: "button", hidden: true, "data-action": "retry-item", click: () => this.#ask() }, "Retry this item");
    const ended = () => {
      this.read.stop();
      closed();
    };
    present(`Item ${position.toLocaleString("en")}`, this.body, { wide: true, closed: ended });
    this.read();
  }

  changed() {
    const told = this.batch.recent.get(this.position)?.item;
    if (this.item && told && (told.status !== this.item.status || told.attempt !== this.item.attempts)) this.read();
    this.#offer();
  }

  async #read() {
    try {
      this.item = await get(`api/batches/${encodeURIComponent(this.batch.id)}/items/${this.position}`);
      this.body.replaceChildren(...this.#parts(this.item));
      this.#offer();
    } catch (error) {
      again(error, this.read);
      if (this.item) return; // what is shown stays
      tell(this.body, make("p.empty", {}, error.status === 404 ? "There is no item at this position." : `The item cannot be read: ${line(error.message)}.`));
    }
  }

  #offer() {
    const possible = this.batch.ended && ["failed", "cancelled"].includes(this.item?.status);
    show(this.retry, possible && this.world.live.role === "operator");
  }

  #parts(item) {
    const took = item.started_at && item.finished_at ? between(item.started_at, item.finished_at) : null;
    const when = item.finished_at ? `ended ${moment(item.finished_at)}` : item.started_at && `started ${moment(item.started_at)}`;
    const facts = [plural(item.attempts, "attempt"), when, took != null && `took ${elapsed(took)}`];
    const sub = make("p.sub", {}, badge(item.status).node, facts.filter(Boolean).join(" · "));
    const head = make("div.item-head", {}, make("div", {}, make("p.key", {}, make("bdi", {}, line(item.key, 512))), sub, this.retry), item.thumbnail ? this.#picture(item) : null);
    const sections = [head];
    if (item.error) sections.push(make("h3", {}, "Error"), make("pre.text.bad", { tabindex: "0" }, make("bdi", {}, block(item.error))));
    for (const [name, words] of PARTS) {
      if (item[name] != null) sections.push(make("h3", {}, words), pretty(item[name]));
      else if (item.left_out?.[name]) sections.push(make("h3", {}, words), make("p.sub", {}, line(item.left_out[name])));
    }
    return sections;
  }

  #picture(item) {
    const src = address(`api/batches/${this.batch.id}/items/${item.position}/thumbnail`);
    const picture = make("img.picture", { src, alt: `Thumbnail of ${line(item.key, 100)}`, error: () => picture.remove() });
    return picture;
  }

  async #ask() {
    const { batch, item } = this;
    const words = `${line(item.key, 100)} will be tried again, with fresh attempts. Everything else of the batch stays as it is.`;
    if (!(await confirm("Retry this item?", words, "Retry this item"))) return;
    const told = ({ retried, reason }) => (retried ? `Item ${item.position} will be tried again.` : `Item ${item.position} is not tried again: ${reason}.`);
    await answered(() => post(`api/batches/${batch.id}/retry`, { position: item.position }), told);
  }
}
