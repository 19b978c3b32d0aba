// What failed in a batch, grouped by what was said about it.

import { arrange, make, setText, show } from "./dom.js";
import { block, count, line, plural } from "./format.js";
import { throttle } from "./paint.js";
import { again, get } from "./rest.js";

export class Failures {
  #groups = new Map();

  constructor(id) {
    this.id = id;
    this.load = throttle(() => this.#read(), 2000);
    this.list = make("div.groups");
    this.sum = make("span.sub");
    this.node = make("section.card.failures", { hidden: true }, make("h2", {}, "Failures ", this.sum), this.list);
  }

  close() {
    this.load.stop();
    this.asking?.abort();
  }

  async #read() {
    const asking = (this.asking = new AbortController());
    try {
      const { groups } = await get(`api/batches/${encodeURIComponent(this.id)}/failures`, {}, asking.signal);
      this.#place(groups);
    } catch (error) {
      again(error, this.load); // what is shown stays
    }
  }

  #place(groups) {
    const nodes = groups.map((group) => {
      let shown = this.#groups.get(group.error);
      if (!shown) this.#groups.set(group.error, (shown = new Group(this.id, group.error)));
      shown.update(group);
      return shown.node;
    });
    const named = new Set(groups.map((group) => group.error));
    for (const error of this.#groups.keys()) if (!named.has(error)) this.#groups.delete(error);
    arrange(this.list, nodes);
    show(this.node, nodes.length > 0);
    setText(this.sum, groups.length > 1 ? `${plural(groups.length, "reason")}` : "");
  }
}

/** One reason, with the items that have it. */
class Group {
  constructor(id, error) {
    this.id = id;
    this.count = make("span.times");
    this.items = make("p.positions");
    const text = block(error ?? "no reason given");
    const first = line(text.split("\n", 1)[0] || "no reason given", 240);
    const whole = text.length > first.length || text.includes("\n") ? make("pre.text", {}, make("bdi", {}, text)) : null;
    this.node = make("details", {}, make("summary", {}, this.count, make("bdi.reason", {}, first)), whole, this.items);
  }

  update({ count: times, positions }) {
    setText(this.count, count(times));
    const key = positions.join();
    if (key === this.key && times === this.times) return;
    [this.key, this.times] = [key, times];
    const links = positions.map((position) => make("a", { href: `#/batches/${this.id}?item=${position}` }, `#${count(position)}`));
    const more = times > positions.length ? [make("a", { href: `#/batches/${this.id}?items=failed` }, `all that failed`)] : [];
    this.items.replaceChildren(times === 1 ? "Item " : "Items ", ...links.concat(more).flatMap((link) => [link, " "]));
  }
}
