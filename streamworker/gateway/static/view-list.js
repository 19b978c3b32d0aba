// The list of batches: the newest first, by status, page by page; its rows change in place.

import { arrange, badge, bar, icon, make, setAttribute, setText, show, tell } from "./dom.js";
import { ago, between, count, elapsed, left, line, moment, percent, plural, rate, short, title } from "./format.js";
import { everySecond, paint, throttle, unpaint } from "./paint.js";
import { again, get } from "./rest.js";

const STATUSES = ["processing", "pending", "completed", "failed", "cancelled"];
const PAGE = 50;
const COLUMNS = [["Status"], ["Batch"], ["Progress"], ["Failed", "number"], ["Rate", "number"], ["Time left", "number"]];

export class ListView {
  title = "Batches";

  constructor(place, route, world) {
    this.world = world;
    this.rows = new Map();
    this.dirty = new Set();
    this.passed = new Set(); // ids that were looked up and are not on this page
    this.load = throttle(() => this.#read(), 1500);
    this.render = () => this.#render();
    this.#build(place);
    this.update(route);
    this.ends = [
      world.live.on("batch", (batch) => this.#changed(batch)),
      world.live.on("reset", () => this.load()),
      everySecond(() => this.#all()),
    ];
    world.live.follow(["*"]);
  }

  /** Another filter or page. */
  update(route) {
    this.status = STATUSES.includes(route.terms.get("status")) ? route.terms.get("status") : "";
    this.before = route.terms.get("before") ?? "";
    this.passed.clear();
    for (const link of this.filter.querySelectorAll("a")) setAttribute(link, "aria-current", link.dataset.status === this.status ? "true" : null);
    this.#read(true);
  }

  /** Whether this batch is on the page. */
  shows(id) {
    return this.rows.has(id);
  }

  close() {
    for (const end of this.ends) end();
    this.load.stop();
    this.asking?.abort();
    unpaint(this.render);
  }

  actions = { n: () => this.older.hidden || this.older.click(), p: () => this.newer.hidden || this.newer.click() };

  #build(place) {
    const links = ["", ...STATUSES].map((status) => make("a", { href: status ? `#/?status=${status}` : "#/", "data-status": status }, status ? icon(status) : null, status ? status[0].toUpperCase() + status.slice(1) : "All"));
    this.filter = make("nav.filter", { "aria-label": "Show batches that are", "data-filter": true }, links);
    this.body = make("tbody");
    const head = make("tr", {}, COLUMNS.map(([name, kind]) => make(kind ? `th.${kind}` : "th", { scope: "col" }, name)));
    this.table = make("table.batches", { hidden: true }, make("caption.unseen", {}, "Batches, the newest first"), make("thead", {}, head), this.body);
    this.note = make("div.empty", { role: "status" }, "Reading…");
    this.newer = make("a.button", { href: "#/", hidden: true }, icon("back"), "Newest");
    this.older = make("a.button", { href: "#/", hidden: true }, "Older", icon("next"));
    this.pager = make("nav.pager", { "aria-label": "Pages" }, this.newer, this.older);
    place.replaceChildren(make("div.heading", {}, make("h1", {}, "Batches"), this.filter), make("section.card.flush", {}, this.table, this.note), this.pager);
  }

  async #read(fresh = false) {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    try {
      const told = await get("api/batches", { status: this.status, before: this.before, limit: PAGE }, asking.signal);
      if (asking.signal.aborted) return;
      this.#place(told);
    } catch (error) {
      if (asking.signal.aborted) return;
      again(error, this.load);
      if (this.rows.size && !fresh) return;
      this.#explain(make("p", {}, `The batches cannot be read: ${error.message}.`), make("button.button", { type: "button", click: () => this.#read(true) }, "Try again"));
    }
  }

  #place({ batches, next }) {
    const nodes = batches.map((row) => {
      const batch = this.world.batches.of(row.id);
      batch.learn(row);
      let shown = this.rows.get(row.id);
      if (!shown) this.rows.set(row.id, (shown = new Row(batch)));
      this.dirty.add(shown);
      return shown.node;
    });
    const wanted = new Set(batches.map((row) => row.id));
    for (const id of this.rows.keys()) if (!wanted.has(id)) this.rows.delete(id);
    const terms = new URLSearchParams(this.status ? { status: this.status } : {});
    show(this.newer, Boolean(this.before));
    setAttribute(this.newer, "href", `#/?${terms}`);
    show(this.older, Boolean(next));
    if (next) setAttribute(this.older, "href", `#/?${new URLSearchParams([...terms, ["before", next]])}`);
    this.next = nodes;
    if (!nodes.length) this.#nothing();
    paint(this.render);
  }

  #nothing() {
    if (this.before) this.#explain(make("p", {}, "There are no older batches."));
    else if (this.status) this.#explain(make("p", {}, `No batch is ${this.status}.`), make("a.button", { href: "#/" }, "Show all"));
    else
      this.#explain(
        make("p.lead", {}, "No batches yet"),
        make("p", {}, "Submit some files, and they appear here as they are worked on:"),
        make("pre.command", {}, "streamworker submit FOLDER"),
      );
  }

  #explain(...parts) {
    tell(this.note, ...parts);
    this.next = [];
    paint(this.render);
  }

  /** A frame told something of a batch. */
  #changed(batch) {
    const row = this.rows.get(batch.id);
    const fits = !this.status || batch.event.status === this.status;
    if (row) {
      this.dirty.add(row);
      paint(this.render);
      if (!fits) this.load();
    } else if (!this.before && fits && !this.passed.has(`${batch.id} ${batch.event.status}`)) {
      if (this.passed.size > 5000) this.passed.clear();
      this.passed.add(`${batch.id} ${batch.event.status}`);
      this.load();
    }
  }

  #all() {
    for (const row of this.rows.values()) this.dirty.add(row);
    this.#render();
  }

  #render() {
    if (this.next) {
      arrange(this.body, this.next);
      show(this.table, this.next.length > 0);
      show(this.note, this.next.length === 0);
      this.next = null;
    }
    for (const row of this.dirty) row.render();
    this.dirty.clear();
  }
}

/** One batch of the list. */
class Row {
  constructor(batch) {
    this.batch = batch;
    this.badge = badge();
    this.link = make("bdi");
    this.sub = make("span.sub");
    this.bar = bar("Progress");
    this.done = make("span.done");
    this.share = make("span.share");
    this.failed = make("td.number.failed", { role: "cell", "data-label": "Failed" });
    this.rate = make("td.number", { role: "cell", "data-label": "Rate" });
    this.left = make("td.number", { role: "cell", "data-label": "Time left" });
    this.node = make(
      "tr",
      { role: "row", "data-row": true, "data-batch": batch.id },
      make("td.status", { role: "cell" }, this.badge.node),
      make("th.name", { role: "rowheader", scope: "row" }, make("a", { href: `#/batches/${batch.id}` }, this.link), this.sub),
      make("td.progress", { role: "cell" }, this.bar.node, make("span.figures", {}, this.done, this.share)),
      this.failed,
      this.rate,
      this.left,
    );
  }

  render() {
    const { event, row } = this.batch;
    if (!event) return;
    this.badge.update(event.status);
    setText(this.link, title(row ?? event));
    const parts = [row?.processor && line(row.processor, 60), row && `created ${ago(row.created_at)}`];
    if (title(row ?? event) !== short(this.batch.id)) parts.unshift(short(this.batch.id));
    if (event.error) parts.unshift(line(event.error, 160));
    setText(this.sub, parts.filter(Boolean).join(" · "));
    if (row) setAttribute(this.sub, "title", `created ${moment(row.created_at)}`);
    this.bar.update(event.succeeded, event.failed, event.total, event.status);
    setText(this.done, `${count(event.processed)} of ${plural(event.total, "item")}`);
    setText(this.share, percent(event.processed, event.total));
    setText(this.failed, event.failed ? count(event.failed) : "–");
    setAttribute(this.failed, "data-some", event.failed ? "true" : null);
    setText(this.rate, rate(this.batch.ended ? this.batch.average : this.batch.rate) || "–");
    setText(this.left, this.#time(event, row));
    setAttribute(this.left, "data-label", this.batch.ended ? "" : "Time left");
    setAttribute(this.node, "data-status", event.status);
    setAttribute(this.node, "data-processed", event.processed);
    setAttribute(this.node, "data-revision", event.revision);
  }

  #time(event, row) {
    if (this.batch.paused) return "paused";
    if (event.status === "processing") return left(this.batch.left) || "–";
    if (this.batch.ended && row?.started_at && row.finished_at) return `took ${elapsed(between(row.started_at, row.finished_at))}`;
    return "–";
  }
}
