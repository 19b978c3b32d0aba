// The items of a batch that are worked on at this moment, with stage and percent.

import { arrange, make, setAttribute, setProperty, setText, show } from "./dom.js";
import { count, line } from "./format.js";

const MOST = 8;

export class Running {
  #lines = new Map();

  constructor(batch) {
    this.batch = batch;
    this.list = make("ul.running");
    this.more = make("p.sub", { hidden: true });
    this.empty = make("p.empty");
    this.node = make("section.card.now", {}, make("h2", {}, "In progress"), this.list, this.more, this.empty);
  }

  render() {
    const { running, event } = this.batch;
    const shown = [];
    for (const [position, item] of running) {
      if (shown.length === MOST) break;
      let each = this.#lines.get(position);
      if (!each) this.#lines.set(position, (each = new Line(this.batch.id, position)));
      each.render(item);
      shown.push(each.node);
    }
    for (const position of this.#lines.keys()) if (!running.has(position)) this.#lines.delete(position);
    arrange(this.list, shown);
    show(this.more, running.size > MOST);
    setText(this.more, `and ${count(running.size - MOST)} more`);
    show(this.empty, running.size === 0);
    const words = { pending: "Waiting for a worker.", processing: "Waiting for word of the next item." };
    setText(this.empty, this.batch.paused ? "Paused, until the next try." : (words[event.status] ?? "Nothing: the batch has ended."));
  }
}

class Line {
  constructor(id, position) {
    this.key = make("bdi");
    this.stage = make("bdi");
    this.percent = make("span.number");
    this.fill = make("span.good");
    this.bar = make("span.bar.thin", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, this.fill);
    const link = make("a", { href: `#/batches/${id}?item=${position}` }, this.key);
    this.node = make("li", { "data-position": position }, make("div.line", {}, link, this.percent), this.bar, make("div.sub", {}, this.stage));
  }

  render({ key, stage, message, percent, attempt }) {
    const name = line(key, 120);
    setText(this.key, name);
    setAttribute(this.bar, "aria-label", name);
    const words = [message || stage, message && stage && message.toLowerCase() !== stage.toLowerCase() ? stage : "", attempt > 1 ? `attempt ${attempt}` : ""];
    setText(this.stage, words.filter(Boolean).map((word) => line(word, 160)).join(" · ") || "started");
    const known = percent != null;
    setText(this.percent, known ? `${Math.floor(percent)} %` : "");
    setAttribute(this.bar, "aria-valuenow", known ? Math.floor(percent) : null);
    setAttribute(this.bar, "data-unknown", known ? null : "true");
    setProperty(this.fill, "--part", known ? (Math.min(100, Math.max(0, percent)) / 100).toFixed(4) : "1");
  }
}
