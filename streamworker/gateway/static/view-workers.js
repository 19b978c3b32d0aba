// The workers: their heartbeat, the batches they hold, and what they are at.

import { arrange, make, setAttribute, setProperty, setText, show } from "./dom.js";
import { count, duration, line, plural, short } from "./format.js";
import { everySecond, paint, throttle, unpaint } from "./paint.js";
import { get } from "./rest.js";

const FIGURES = [["length", "In the stream"], ["waiting", "Waiting"], ["pending", "Pending"], ["dead", "Dead letters"], ["progress_length", "Progress events kept"]];
const EVERY = 2000; // milliseconds
const SILENT = 5; // seconds without a word after which a worker is called silent

export class WorkersView {
  title = "Workers";
  actions = {};
  #rows = new Map();

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
    world.live.follow(["*"]);
    this.load();
    paint(this.render);
  }

  update() {}

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
    const nodes = workers.map((worker) => {
      let row = this.#rows.get(worker.worker);
      if (!row) this.#rows.set(worker.worker, (row = new Worker(worker.worker)));
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
    for (const [name, node] of Object.entries(this.figures)) setText(node, this.world.queue.told ? count(this.world.queue.told[name]) : "–");
  }
}

class Worker {
  constructor(name) {
    this.beat = make("span.beat");
    this.lamp = make("span.lamp", { "aria-hidden": "true" });
    this.batches = make("div.held");
    this.node = make("li.card.worker", { "data-worker": name }, make("div.worker-head", {}, this.lamp, make("h2", {}, make("bdi", {}, line(name, 120))), this.beat), this.batches);
  }

  take({ idle_seconds: idle, batches }) {
    this.busy = batches.length > 0;
    const silent = idle != null && idle > SILENT;
    setAttribute(this.node, "data-state", silent ? "silent" : this.busy ? "busy" : "idle");
    setText(this.beat, idle == null ? "no heartbeat" : idle < 1.5 ? "heartbeat now" : `heartbeat ${duration(idle)} ago`);
    if (!batches.length) return this.batches.replaceChildren(make("p.sub", {}, silent ? "It does not answer." : "Idle: waiting for a batch."));
    arrange(this.batches, batches.map((held) => this.#batch(held)));
  }

  #batch({ batch_id: id, current = [], lease_expires_at: lease, total, processed }) {
    const items = current.slice(0, 6).map((item) => {
      const fill = make("span.good");
      setProperty(fill, "--part", item.percent == null ? "0" : (Math.min(100, item.percent) / 100).toFixed(3));
      const words = [item.message || item.stage, item.percent == null ? "" : `${Math.floor(item.percent)} %`].filter(Boolean).map((part) => line(part, 120)).join(" · ");
      return make("li", {}, make("div.line", {}, make("a", { href: `#/batches/${id}?item=${item.position}` }, make("bdi", {}, line(item.key, 100))), make("span.sub", {}, make("bdi", {}, words))), make("span.bar.thin", { "aria-hidden": "true" }, fill));
    });
    const remaining = lease ? (Date.parse(lease) - Date.now()) / 1000 : null;
    const done = total ? ` · ${count(processed)} of ${count(total)}` : "";
    const more = current.length > 6 ? make("p.sub", {}, `and ${count(current.length - 6)} more`) : null;
    return make("div", {}, make("p.line", {}, make("a", { href: `#/batches/${id}` }, `Batch ${short(id)}`), make("span.sub", {}, `${remaining == null ? "" : "lease held"}${done}`)), items.length ? make("ul.running", {}, items) : make("p.sub", {}, "Between two items."), more);
  }
}
