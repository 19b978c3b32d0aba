// The workers: their heartbeat, the batches they hold, and what they are at.

import { arrange, bar, make, setAttribute, setText, show } from "./dom.js";
import { count, duration, line, plural, short, title } from "./format.js";
import { everySecond, paint, throttle, unpaint } from "./paint.js";
import { get } from "./rest.js";

const FIGURES = [["length", "In the stream"], ["waiting", "Waiting"], ["pending", "Pending"], ["dead", "Dead letters"], ["progress_length", "Progress events kept"]];
const EVERY = 2000; // milliseconds
const MOST = 5; // items shown of a batch
const FOLLOWED = 40; // batches whose items are shown as they move
const SILENT = 5; // seconds without a word after which a worker is called silent

export class WorkersView {
  title = "Workers";
  actions = {};
  #rows = new Map();
  #held = new Set();

  constructor(place, route, world) {
    this.world = world;
    this.load = throttle(() => this.#read(), EVERY - 200);
    this.render = () => this.#render();
    this.figures = Object.fromEntries(FIGURES.map(([name]) => [name, make("dd", { "data-figure": name }, "–")]));
    const figures = FIGURES.map(([name, words]) => make("div", {}, make("dt", {}, words), this.figures[name]));
    this.list = make("ul.workers");
    this.note = make("div.empty", { role: "status" }, "Reading…");
    this.sum = make("p.sub");
    place.replaceChildren(
      make("div.heading", {}, make("div", {}, make("h1", {}, "Workers"), this.sum)),
      make("section.card.overview", { "aria-label": "The stream of jobs" }, make("dl.figures.small", {}, figures)),
      this.list,
      make("section.card", {}, this.note),
    );
    this.noteCard = this.note.parentElement;
    this.ends = [everySecond(() => this.load()), world.queue.on(() => paint(this.render))];
    this.ends.push(world.live.on("batch", (batch) => this.#held.has(batch.id) && paint(this.render)));
    world.live.follow([]);
    this.load();
    paint(this.render);
  }

  update() {}

  /** Whether this batch is followed here. */
  shows(id) {
    return this.#held.has(id);
  }

  close() {
    for (const end of this.ends) end();
    this.load.stop();
    this.asking?.abort();
    unpaint(this.render);
  }

  async #read() {
    const asking = (this.asking = new AbortController());
    try {
      const { workers } = await get("api/workers", {}, asking.signal);
      this.#place(workers);
    } catch (error) {
      if (asking.signal.aborted || this.#rows.size) return;
      this.note.replaceChildren(make("p", {}, `The workers cannot be read: ${line(error.message)}.`));
    }
  }

  #place(workers) {
    const named = new Set(workers.map((worker) => worker.worker));
    for (const name of this.#rows.keys()) if (!named.has(name)) this.#rows.delete(name);
    this.#held = new Set(workers.flatMap((worker) => worker.batches.map((held) => held.batch_id)).slice(0, FOLLOWED));
    this.world.live.follow(this.#held);
    const nodes = workers.map((worker) => {
      let row = this.#rows.get(worker.worker);
      if (!row) this.#rows.set(worker.worker, (row = new Worker(worker.worker, this.world.batches)));
      row.take(worker);
      return row.node;
    });
    if (!nodes.length) this.note.replaceChildren(make("p.lead", {}, "No worker is there"), make("p", {}, "Batches wait until one is started:"), make("pre.command", {}, "streamworker run"));
    this.next = nodes;
    paint(this.render);
  }

  #render() {
    if (this.next) {
      arrange(this.list, this.next);
      show(this.noteCard, this.next.length === 0);
      const busy = [...this.#rows.values()].filter((row) => row.busy).length;
      setText(this.sum, this.next.length ? `${plural(this.next.length, "worker")}, ${busy ? `${count(busy)} busy` : "all idle"}` : "");
      this.next = null;
    }
    for (const row of this.#rows.values()) row.render();
    for (const [name, node] of Object.entries(this.figures)) setText(node, this.world.queue.told ? count(this.world.queue.told[name]) : "–");
  }
}

class Worker {
  #held = new Map();

  constructor(name, batches) {
    this.known = batches;
    this.beat = make("span.beat");
    this.lamp = make("span.lamp", { "aria-hidden": "true" });
    this.batches = make("div.held");
    this.idle = make("p.sub");
    this.node = make("li.card.worker", { "data-worker": name }, make("div.worker-head", {}, this.lamp, make("h2", {}, make("bdi", {}, line(name, 120))), this.beat), this.batches, this.idle);
  }

  take({ idle_seconds: idle, batches }) {
    this.busy = batches.length > 0;
    const silent = idle != null && idle > SILENT;
    setAttribute(this.node, "data-state", silent ? "silent" : this.busy ? "busy" : "idle");
    setText(this.beat, idle == null ? "no heartbeat" : idle < 1.5 ? "heartbeat now" : `heartbeat ${duration(idle)} ago`);
    show(this.idle, !this.busy || silent);
    setText(this.idle, silent ? "It does not answer." : "Idle: waiting for a batch.");
    const ids = new Set(batches.map((held) => held.batch_id));
    for (const id of this.#held.keys()) if (!ids.has(id)) this.#held.delete(id);
    const nodes = batches.map((held) => {
      let shown = this.#held.get(held.batch_id);
      if (!shown) this.#held.set(held.batch_id, (shown = new Held(this.known.of(held.batch_id))));
      shown.told = held;
      return shown.node;
    });
    arrange(this.batches, nodes);
  }

  render() {
    for (const held of this.#held.values()) held.render();
  }
}

/** A batch that a worker holds. */
class Held {
  constructor(batch) {
    this.batch = batch;
    this.name = make("bdi");
    this.done = make("span.sub");
    this.bar = bar("Progress");
    this.items = make("ul.doing");
    this.node = make("div", { "data-held": batch.id }, make("p.line", {}, make("a", { href: `#/batches/${batch.id}` }, this.name), this.done), this.bar.node, this.items);
  }

  render() {
    const { event, running, id } = this.batch;
    const figures = event && event.processed >= (this.told.processed ?? 0) ? event : this.told;
    setText(this.name, this.told.metadata ? title({ id, ...this.told }) : `Batch ${short(id)}`);
    setText(this.done, `${count(figures.processed)} of ${plural(figures.total, "item")}`);
    this.bar.update(figures.processed - figures.failed, figures.failed, figures.total, "processing");
    const items = [...running.values()].slice(0, MOST);
    const rows = items.map((item, n) => {
      const node = this.items.children[n] ?? make("li", {}, make("bdi"));
      const words = [line(item.key, 80), line(item.message || item.stage || "", 100), item.percent == null ? "" : `${Math.floor(item.percent)} %`];
      setText(node.firstElementChild, words.filter(Boolean).join(" · "));
      return node;
    });
    if (running.size > MOST) rows.push(make("li", {}, `and ${count(running.size - MOST)} more`));
    arrange(this.items, rows);
  }
}
