// The items of a batch: a page of a table, by status; one of them in full.

import { arrange, badge, icon, make, setAttribute, setText, show, tell } from "./dom.js";
import { between, count, elapsed, line, plural } from "./format.js";
import { TERMINAL } from "./batches.js";
import { dismiss } from "./dialogs.js";
import { ItemDialog } from "./item.js";
import { paint, throttle, unpaint } from "./paint.js";
import { address, again, get } from "./rest.js";

const STATUSES = ["processing", "pending", "completed", "failed", "cancelled"];
const PAGE = 50;
const TRIES = 30; // of a second each at most

export class Items {
  #rows = new Map(); // position -> Row

  constructor(batch, world) {
    this.batch = batch;
    this.world = world;
    this.base = `#/batches/${batch.id}`;
    this.trail = []; // the pages before this one
    this.reload = throttle(() => this.#read(), 2000);
    this.render = () => this.#render();
    this.#build();
  }

  /** What the address says: filter, page, and the item that is open. */
  update(route) {
    const status = STATUSES.includes(route.terms.get("items")) ? route.terms.get("items") : "";
    const after = /^\d{1,9}$/.test(route.terms.get("after") ?? "") ? Number(route.terms.get("after")) : null;
    if (status !== this.status || after !== this.after) {
      this.#turn(status, after);
      [this.status, this.after] = [status, after];
      for (const link of this.filter.querySelectorAll("a")) setAttribute(link, "aria-current", link.dataset.status === status ? "true" : null);
      this.#read();
    }
    const item = route.terms.get("item");
    if (item !== this.opened) this.#open(item);
  }

  /** The pages before this one, also where the browser's own Back or Forward leads to it. */
  #turn(status, after) {
    const back = this.trail.indexOf(after);
    if (status !== this.status) this.trail = [];
    else if (back >= 0) this.trail.length = back;
    else if (after === this.following) this.trail.push(this.after);
    else this.trail = []; // a jump: the page before is told by the number alone
    this.following = undefined;
  }

  close() {
    this.reload.stop();
    this.asking?.abort();
    unpaint(this.render);
    if (this.opened != null) {
      this.leaving = true;
      dismiss();
    }
  }

  older() {
    if (!this.olderLink.hidden) this.olderLink.click();
  }

  newer() {
    if (!this.newerLink.hidden) this.newerLink.click();
  }

  /** Something new about the batch: visible rows change in place, and what the frames do not tell is read again. */
  changed() {
    const { event } = this.batch;
    let touched = false;
    this.dialog?.changed();
    for (const item of event.items) {
      const row = this.#rows.get(item.position);
      if (!row) continue;
      row.tell(item);
      touched ||= item.status !== "processing";
    }
    const moved = event.revision !== this.revision;
    this.revision = event.revision;
    if (touched || (moved && (this.status || event.items.length === 0 || this.batch.ended || event.status === "pending"))) this.reload();
    paint(this.render);
  }

  #build() {
    const links = ["", ...STATUSES].map((status) => make("a", { href: this.#href({ items: status }), "data-status": status }, status ? icon(status) : null, status ? status[0].toUpperCase() + status.slice(1) : "All"));
    this.filter = make("nav.filter", { "aria-label": "Show items that are", "data-filter": true }, links);
    this.body = make("tbody");
    const heads = [["#", "number"], ["Item"], ["Status"], ["Attempts", "number"], ["Took", "number"], ["Result or error"]];
    const head = make("tr", {}, heads.map(([name, kind]) => make(kind ? `th.${kind}` : "th", { scope: "col" }, name)));
    this.table = make("table.items", { hidden: true }, make("caption.unseen", {}, "Items in the order of their positions"), make("thead", {}, head), this.body);
    this.note = make("div.empty", { role: "status" }, "Reading…");
    this.newerLink = make("a.button", { href: this.base, hidden: true }, icon("back"), "Previous");
    this.olderLink = make("a.button", { href: this.base, hidden: true }, "Next", icon("next"));
    this.where = make("span.sub");
    const number = make("input", { type: "text", inputmode: "numeric", pattern: "[0-9]*", size: 8, placeholder: "position", "aria-label": "Go to position", autocomplete: "off" });
    const go = make("form.go", { submit: (event) => this.#go(event, number) }, number, make("button.button", { type: "submit" }, "Go"));
    this.node = make(
      "section.card.flush",
      { "aria-label": "Items" },
      make("div.card-heading", {}, make("h2", {}, "Items"), this.filter),
      this.table,
      this.note,
      make("div.pager", {}, this.where, go, this.newerLink, this.olderLink),
    );
  }

  #href(terms) {
    const given = new URLSearchParams(Object.entries(terms).filter(([, value]) => value != null && value !== ""));
    return given.size ? `${this.base}?${given}` : this.base;
  }

  #go(event, number) {
    event.preventDefault();
    const position = Number.parseInt(number.value, 10);
    if (Number.isNaN(position)) return;
    location.hash = this.#href({ after: position > 0 ? position - 1 : null });
  }

  async #read() {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const asked = performance.now();
    try {
      const told = await this.#look(asking.signal);
      if (!asking.signal.aborted) this.#place(told, asked);
    } catch (error) {
      if (asking.signal.aborted) return;
      again(error, this.reload);
      if (this.#rows.size) return; // what is shown stays
      tell(this.note, make("p", {}, `The items cannot be read: ${line(error.message)}.`), make("button.button", { type: "button", click: () => this.#read() }, "Try again"));
    }
  }

  /** A page of items. Among a million the gateway may look in vain for a while, and says where to go on. */
  async #look(signal) {
    const found = { items: [], next: this.after };
    for (let tries = 0; tries < TRIES; tries += 1) {
      const terms = { status: this.status, after: found.next, limit: PAGE - found.items.length };
      const { items, next } = await get(`api/batches/${encodeURIComponent(this.batch.id)}/items`, terms, signal);
      found.items.push(...items);
      found.next = next;
      if (next == null || found.items.length >= PAGE) break;
    }
    return found;
  }

  #place({ items, next }, asked) {
    const nodes = items.map((item) => {
      let row = this.#rows.get(item.position);
      if (!row) this.#rows.set(item.position, (row = new Row(this.batch, this.#href.bind(this))));
      const newest = this.batch.newest(item, asked);
      const running = this.batch.running.get(item.position);
      row.take(newest, { items: this.status, after: this.after });
      if (running && !TERMINAL.has(newest.status)) row.tell(running); // of many at a time Postgres learns a little later
      return row.node;
    });
    const positions = new Set(items.map((item) => item.position));
    for (const position of this.#rows.keys()) if (!positions.has(position)) this.#rows.delete(position);
    this.next = nodes;
    show(this.olderLink, next != null);
    if (next != null) setAttribute(this.olderLink, "href", this.#href({ items: this.status, after: next }));
    this.following = next ?? undefined; // null is the first page
    const before = this.trail.length ? this.trail.at(-1) : this.status || this.after == null ? null : this.after - PAGE < 0 ? null : this.after - PAGE;
    show(this.newerLink, this.after != null);
    setAttribute(this.newerLink, "href", this.#href({ items: this.status, after: before }));
    const range = items.length ? `#${count(items[0].position)} – #${count(items.at(-1).position)}` : "";
    setText(this.where, this.status || !range ? range : `${range} of ${plural(this.batch.event?.total ?? items.length, "item")}`);
    this.note.replaceChildren(make("p", {}, this.status ? `No item is ${this.status}${this.after == null ? "" : " from here on"}.` : "There are no items here."));
    paint(this.render);
  }

  #render() {
    if (this.next) {
      this.#arrange(this.next);
      show(this.table, this.next.length > 0);
      show(this.note, this.next.length === 0);
      this.next = null;
    }
    for (const row of this.#rows.values()) row.render();
  }

  /** Place these rows; where the one with the focus is gone, the one at its place has it. */
  #arrange(rows) {
    const at = [...this.body.children].findIndex((row) => row.contains(document.activeElement));
    arrange(this.body, rows);
    if (at < 0 || this.body.contains(document.activeElement)) return;
    (rows[Math.min(at, rows.length - 1)] ?? this.filter).querySelector("a").focus({ preventScroll: true });
  }

  #open(position) {
    this.opened = position;
    if (position == null || !/^\d{1,9}$/.test(position)) return dismiss();
    this.dialog = new ItemDialog(this.batch, Number(position), this.world, () => {
      this.dialog = null;
      if (this.opened !== position || this.leaving) return;
      this.opened = null;
      const here = this.#href({ items: this.status, after: this.after });
      history.replaceState(null, "", here);
    });
  }
}

/** One item of the table. */
class Row {
  constructor(batch, href) {
    this.batch = batch;
    this.href = href;
    this.badge = badge();
    this.position = make("td.number.position", { role: "cell" });
    this.key = make("bdi");
    this.link = make("a", {}, this.key);
    this.place = make("th.name", { role: "rowheader", scope: "row" }, this.link);
    this.attempts = make("td.number", { role: "cell", "data-label": "Attempts" });
    this.took = make("td.number", { role: "cell", "data-label": "Took" });
    this.text = make("bdi");
    this.words = make("td.words", { role: "cell" }, this.text);
    this.node = make("tr", { role: "row", "data-row": true }, this.position, this.place, make("td.status", { role: "cell" }, this.badge.node), this.attempts, this.took, this.words);
  }

  /** What the API says. */
  take(item, terms) {
    this.item = item;
    this.live = null;
    this.changed = true;
    setAttribute(this.link, "href", this.href({ ...terms, item: item.position }));
    if (hasPicture(item) && !this.picture) {
      this.picture = make("img.thumb", { src: address(`api/batches/${this.batch.id}/items/${item.position}/thumbnail`), alt: "", loading: "lazy", width: 36, height: 36, error: () => this.picture.remove() });
      this.link.prepend(this.picture);
    }
  }

  /** What a frame says. */
  tell(item) {
    this.live = item;
    this.item = { ...this.item, status: item.status, attempts: item.attempt, error: item.error ?? (item.status === "failed" ? this.item.error : null) };
    if (item.status === "pending" || item.status === "processing") this.item.finished_at = null;
    this.changed = true;
  }

  render() {
    if (!this.changed) return;
    this.changed = false;
    const item = this.item;
    setAttribute(this.node, "data-position", item.position);
    setAttribute(this.node, "data-status", item.status);
    setText(this.position, count(item.position));
    setText(this.key, line(item.key, 200));
    this.badge.update(item.status);
    setText(this.attempts, item.attempts || "–");
    const took = item.started_at && item.finished_at ? between(item.started_at, item.finished_at) : null;
    setText(this.took, took == null ? "–" : elapsed(took));
    setText(this.text, this.#words(item));
    setAttribute(this.words, "data-bad", item.error ? "true" : null);
  }

  #words(item) {
    if (item.status === "processing" && this.live?.status === "processing") {
      const { stage, message, percent } = this.live;
      return [message || stage, percent == null ? "" : `${Math.floor(percent)} %`].filter(Boolean).map((part) => line(part, 160)).join(" · ");
    }
    if (item.error) return line(item.error, 240);
    return item.result == null ? "" : line(summary(item.result), 240);
  }
}

/** A result in a line: a sentence where it has one, else its JSON. */
function summary(result) {
  if (typeof result !== "object") return String(result);
  for (const name of ["summary", "description", "title", "text"]) if (typeof result[name] === "string" && result[name].trim()) return result[name].trim();
  return JSON.stringify(result, (_key, value) => (typeof value === "string" && value.length > 200 ? `${value.slice(0, 60)}…` : value));
}

function hasPicture(item) {
  if (item.thumbnail != null) return Boolean(item.thumbnail);
  const result = item.result;
  return [result, result?.image, result?.pdf].some((each) => typeof each?.thumbnail === "string" && each.thumbnail.startsWith("data:image/"));
}
