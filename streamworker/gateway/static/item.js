// One item in full, in a dialog: what became of it, its result, its payload, its checkpoint.

import { arrange, badge, make, setText, show, tell } from "./dom.js";
import { TERMINAL } from "./batches.js";
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
    this.kept = new Map(); // by name: what it tells, as JSON, and the nodes
    this.body = make("div.item", {}, make("p.empty", { role: "status" }, "Reading…"));
    this.retry = make("button.button.primary", { type: "button", hidden: true, "data-action": "retry-item", click: () => this.#ask() }, "Retry this item");
    this.key = make("bdi");
    this.badge = badge();
    this.facts = make("span");
    this.words = make("div", {}, make("p.key", {}, this.key), make("p.sub", {}, this.badge.node, this.facts), this.retry);
    this.head = make("div.item-head");
    const ended = () => {
      this.read.stop();
      closed();
    };
    present(`Item ${position.toLocaleString("en")}`, this.body, { wide: true, closed: ended });
    this.read();
  }

  changed() {
    const told = this.batch.recent.get(this.position)?.item;
    if (this.item && (told ? told.status !== this.item.status || told.attempt !== this.item.attempts : this.#missed())) this.read();
    this.#offer();
  }

  /** Of what happened just before the batch was followed no frame tells: any change may then be one of this item. */
  #missed() {
    return !TERMINAL.has(this.item.status) && this.batch.event.revision !== this.revision;
  }

  async #read() {
    this.revision = this.batch.event?.revision;
    try {
      this.item = await get(`api/batches/${encodeURIComponent(this.batch.id)}/items/${this.position}`);
      arrange(this.body, [this.#head(this.item), ...this.#parts(this.item)]);
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

  #head(item) {
    const took = item.started_at && item.finished_at ? between(item.started_at, item.finished_at) : null;
    const when = item.finished_at ? `ended ${moment(item.finished_at)}` : item.started_at && `started ${moment(item.started_at)}`;
    const facts = [plural(item.attempts, "attempt"), when, took != null && `took ${elapsed(took)}`];
    setText(this.key, line(item.key, 512));
    this.badge.update(item.status);
    setText(this.facts, facts.filter(Boolean).join(" · "));
    const picture = item.thumbnail ? this.#keep("picture", [item.thumbnail, item.finished_at], () => [this.#picture(item)]) : [];
    arrange(this.head, [this.words, ...picture]);
    return this.head;
  }

  #parts(item) {
    const sections = [];
    if (item.error) sections.push(...this.#keep("error", item.error, () => [make("h3", {}, "Error"), make("pre.text.bad", { tabindex: "0" }, make("bdi", {}, block(item.error)))]));
    for (const [name, words] of PARTS) {
      const [value, without] = [item[name], item.left_out?.[name]];
      if (value == null && !without) continue;
      sections.push(...this.#keep(name, [value, without], () => [make("h3", {}, words), value != null ? pretty(value) : make("p.sub", {}, line(without))]));
    }
    return sections;
  }

  /** The nodes that tell this; while it does not change they stay, with the focus and what is selected in them. */
  #keep(name, told, build) {
    const text = JSON.stringify(told);
    let kept = this.kept.get(name);
    if (kept?.text !== text) this.kept.set(name, (kept = { text, nodes: build() }));
    return kept.nodes;
  }

  #picture(item) {
    const src = address(`api/batches/${this.batch.id}/items/${item.position}/thumbnail`);
    const picture = make("img.picture", { src, alt: `Thumbnail of ${line(item.key, 100)}`, error: () => show(picture, false) });
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
