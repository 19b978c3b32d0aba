// One batch: its figures, its course over time, what is worked on, what failed, and every item.

import { badge, bar, icon, make, setAttribute, setText, show, tell } from "./dom.js";
import { ago, between, block, count, duration, elapsed, left, line, moment, percent, plural, rate, short, title } from "./format.js";
import { Chart } from "./chart.js";
import { confirm } from "./dialogs.js";
import { Failures } from "./failures.js";
import { Items } from "./items.js";
import { Running } from "./running.js";
import { pretty } from "./json.js";
import { everySecond, paint, throttle, unpaint } from "./paint.js";
import { again, get, post } from "./rest.js";
import { answered, say } from "./toast.js";

const FIGURES = [["done", "Done"], ["succeeded", "Succeeded"], ["failed", "Failed"], ["rate", "Rate"], ["left", "Time left"], ["took", "Running for"]];

export class BatchView {
  constructor(place, route, world) {
    this.world = world;
    this.place = place;
    this.id = route.path[1];
    this.batch = world.batches.of(this.id);
    this.title = `Batch ${short(this.id)}`;
    this.render = () => this.#render();
    this.learn = throttle(() => this.#learn(), 1000);
    this.chart = new Chart();
    this.drawChart = throttle(() => paint(this.paintChart), 250);
    this.paintChart = () => this.chart.render();
    this.running = new Running(this.batch);
    this.failures = new Failures(this.id);
    this.items = new Items(this.batch, world);
    this.#build();
    this.items.update(route);
    this.ends = [
      world.live.on("batch", (batch) => batch === this.batch && this.#changed()),
      world.live.on("reset", (batch) => batch === this.batch && this.#anew()),
      world.live.on("role", () => paint(this.render)),
      this.chart.watch(() => paint(this.paintChart)),
      everySecond(this.render),
    ];
    world.live.follow([this.id]); // whatever can be read now: what is told later is then heard
    this.learn();
  }

  /** Another filter, page or item of the same batch. */
  update(route) {
    if (route.path[1] !== this.id) return false;
    this.items.update(route);
    return true;
  }

  /** Whether it is this batch. */
  shows(id) {
    return id === this.id;
  }

  close() {
    for (const end of this.ends) end();
    this.asking?.abort();
    for (const each of [this.learn, this.drawChart]) each.stop();
    for (const each of [this.items, this.failures]) each.close();
    unpaint(this.render);
    unpaint(this.paintChart);
  }

  actions = {
    c: () => this.cancelButton.hidden || this.cancelButton.click(),
    r: () => this.retryButton.hidden || this.retryButton.click(),
    n: () => this.items.older(),
    p: () => this.items.newer(),
  };

  #build() {
    this.badge = badge();
    this.name = make("bdi", {}, short(this.id));
    this.cancelButton = make("button.button", { type: "button", hidden: true, "data-action": "cancel", click: () => this.#cancel() }, "Cancel");
    this.retryButton = make("button.button.primary", { type: "button", hidden: true, "data-action": "retry", click: () => this.#retry() }, "Retry");
    this.bar = bar("Progress of the batch");
    this.figures = Object.fromEntries(FIGURES.map(([name]) => [name, make("dd", { "data-figure": name }, "–")]));
    this.sub = make("p.sub");
    this.error = make("p.notice", { hidden: true, "data-kind": "bad" });
    this.details = make("div.details");
    this.chartCard = make("section.card", {}, this.chart.node);
    this.columns = make("div.columns", {}, this.chartCard, this.running.node);
    this.content = make("div.batch", { hidden: true, "data-batch": this.id });
    this.note = make("section.card", {}, make("div.empty", { role: "status" }, "Reading…"));
    const figures = FIGURES.map(([name, words]) => make(`div.${name}`, {}, make("dt", {}, words), this.figures[name]));
    this.content.append(
      this.error,
      make("section.card.overview", { "aria-label": "Progress" }, this.bar.node, make("dl.figures", {}, figures)),
      this.columns,
      this.failures.node,
      this.items.node,
      make("details.card.more", {}, make("summary", {}, make("h2", {}, "Details")), this.details),
    );
    const up = make("a.up", { href: "#/" }, icon("back"), "Batches");
    const heading = make("div.heading", {}, make("div", {}, up, make("h1", {}, this.name, this.badge.node), this.sub), make("div.buttons", {}, this.cancelButton, this.retryButton));
    this.place.replaceChildren(heading, this.content, this.note);
  }

  /** Read the row, and after the first one what it leads to. */
  async #learn() {
    const asking = (this.asking = new AbortController());
    try {
      const row = await get(`api/batches/${encodeURIComponent(this.id)}`, {}, asking.signal);
      if (asking.signal.aborted) return;
      if (row.id !== this.id) location.replace(`#/batches/${row.id}`); // it was spelt in another way
      this.batch.learn(row);
      this.told ??= this.batch.event.status;
      this.#details();
      this.#changed();
      this.past ??= this.#past();
    } catch (error) {
      if (asking.signal.aborted) return;
      if (!this.batch.row) this.#explain(error);
      again(error, this.learn);
    }
  }

  async #past() {
    try {
      const { samples } = await get(`api/batches/${encodeURIComponent(this.id)}/history`);
      this.chart.load(samples);
      this.chart.add(this.batch.event);
      paint(this.paintChart);
      paint(this.render);
    } catch {
      // the chart then begins now
    }
  }

  #explain(error) {
    const unknown = error.status === 404 || error.status === 400;
    if (unknown) this.world.live.follow([]);
    const again = make("button.button", { type: "button", click: this.learn }, "Try again");
    const words = unknown ? "There is no batch with this id, or it has been deleted." : `The batch cannot be read: ${line(error.message)}.`;
    const parts = [make("p.lead", {}, unknown ? "Not found" : "Not reachable"), make("p", {}, words), unknown ? make("a.button", { href: "#/" }, "All batches") : again];
    tell(this.note.firstElementChild, ...parts);
    show(this.content, false);
    show(this.note, true);
  }

  /** Something new about the batch. */
  #changed() {
    const { event } = this.batch;
    this.chart.add(event);
    this.drawChart();
    this.items.changed();
    if (event.failed !== this.failedBefore) {
      this.failedBefore = event.failed;
      this.failures.load();
    }
    if (this.told && event.status !== this.told) {
      this.told = event.status;
      say(`The batch is ${event.status}: ${count(event.succeeded)} succeeded, ${count(event.failed)} failed, of ${count(event.total)}.`);
      this.learn();
    }
    paint(this.render);
  }

  /** Continuity was lost: what the frames do not tell is read again. */
  #anew() {
    this.learn();
    this.failures.load();
    this.items.reload();
    this.#past();
  }

  #render() {
    const { event, row } = this.batch;
    if (!event || !row) return;
    show(this.content, true);
    show(this.note, false);
    this.badge.update(event.status);
    setText(this.name, title(row));
    const named = `${percent(event.processed, event.total)} · ${title(row)} · streamworker`;
    if (document.title !== named) document.title = named;
    this.#subtitle(event, row);
    show(this.error, Boolean(event.error));
    setText(this.error, block(event.error));
    setAttribute(this.error, "data-kind", this.batch.ended ? "bad" : "warn"); // while it runs: it is paused, and why
    this.bar.update(event.succeeded, event.failed, event.total, event.status);
    setText(this.figures.done, `${percent(event.processed, event.total)}`);
    setText(this.figures.succeeded, count(event.succeeded));
    setText(this.figures.failed, count(event.failed));
    setAttribute(this.figures.failed, "data-some", event.failed ? "true" : null);
    const took = between(row.started_at, row.finished_at);
    setText(this.figures.rate, rate(this.batch.ended ? this.batch.average : this.batch.rate) || "–");
    setText(this.figures.left, (this.batch.ended ? ago(row.finished_at) : left(this.batch.left)) || "–");
    setText(this.figures.left.previousSibling, this.batch.ended ? "Ended" : "Time left");
    setText(this.figures.took, (this.batch.ended ? elapsed(took) : duration(took)) || "–");
    setText(this.figures.took.previousSibling, this.batch.ended ? "Took" : "Running for");
    this.#buttons(event);
    this.running.render();
    show(this.running.node, !this.batch.ended);
    setAttribute(this.columns, "data-alone", this.batch.ended ? "true" : null);
    show(this.columns, !this.batch.ended || this.chart.worth);
    setAttribute(this.content, "data-status", event.status);
    setAttribute(this.content, "data-processed", event.processed);
    setAttribute(this.content, "data-revision", event.revision);
  }

  #subtitle(event, row) {
    const parts = [`${count(event.processed)} of ${plural(event.total, "item")}`, row.processor && line(row.processor, 80), event.worker && !this.batch.ended && `on ${line(event.worker, 80)}`];
    setText(this.sub, parts.filter(Boolean).join(" · "));
  }

  #buttons(event) {
    const may = this.world.live.role === "operator";
    const open = event.total - event.succeeded;
    show(this.cancelButton, may && !this.batch.ended);
    show(this.retryButton, may && this.batch.ended && open > 0);
    setText(this.retryButton, event.failed === open ? `Retry ${count(open)} failed` : `Retry ${plural(open, "item")}`);
  }

  #details() {
    const { row } = this.batch;
    const facts = [
      ["Id", row.id], ["Processor", row.processor ?? "the worker's first"], ["Created", moment(row.created_at)], ["Started", row.started_at && moment(row.started_at)],
      ["Finished", row.finished_at && moment(row.finished_at)], ["Worker", row.worker], ["Attempts of an item", row.max_attempts],
      ["Failures allowed", row.max_failures ?? "any number"], ["Revision", row.revision], ["Epoch", row.epoch],
    ];
    const shown = facts.filter(([, value]) => value != null).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("bdi", {}, line(value, 200)))));
    const metadata = Object.keys(row.metadata ?? {}).length ? [make("h3", {}, "Metadata"), pretty(row.metadata)] : [];
    this.details.replaceChildren(make("dl.facts", {}, shown), ...metadata);
  }

  async #cancel() {
    const open = this.batch.event.total - this.batch.event.processed;
    const words = `No further item starts, and the one in flight is interrupted. ${plural(open, "item")} not done yet will be cancelled; what is done stays.`;
    if (!(await confirm("Cancel this batch?", words, "Cancel the batch", { dangerous: true }))) return;
    const told = ({ cancelled }) => (cancelled ? `Batch ${short(this.id)} is cancelled.` : `Batch ${short(this.id)} had ended already.`);
    await answered(() => post(`api/batches/${this.id}/cancel`), told);
    this.learn();
  }

  async #retry() {
    const open = this.batch.event.total - this.batch.event.succeeded;
    const words = `${plural(open, "item")} that failed or ${open === 1 ? "was" : "were"} cancelled will be tried again, with fresh attempts. What succeeded stays as it is.`;
    if (!(await confirm("Retry what did not succeed?", words, `Retry ${plural(open, "item")}`))) return;
    await answered(() => post(`api/batches/${this.id}/retry`), ({ retried, reason }) => (retried ? `${plural(retried, "item")} will be tried again.` : `Nothing is tried again: ${reason}.`));
    this.learn();
  }
}
