// Dead letters: messages that could not be run, why, and what to do with them.

import { arrange, icon, make, setAttribute, show, tell } from "./dom.js";
import { ago, block, line, moment, plural } from "./format.js";
import { confirm } from "./dialogs.js";
import { paint, throttle, unpaint } from "./paint.js";
import { again, get, post } from "./rest.js";
import { answered } from "./toast.js";

const PAGE = 50;

export class DeadView {
  title = "Dead letters";
  #letters = new Map();

  constructor(place, route, world) {
    this.world = world;
    this.load = throttle(() => this.#read(), 1500);
    this.render = () => this.#render();
    this.sum = make("p.sub", {}, "Messages that could not be run. They stay until they are sent back or dropped.");
    this.list = make("ul.letters");
    this.note = make("div.empty", { role: "status" }, "Reading…");
    this.noteCard = make("section.card", {}, this.note);
    this.first = make("a.button", { href: "#/dead", hidden: true }, icon("back"), "First page");
    this.more = make("a.button", { href: "#/dead", hidden: true }, "Next", icon("next"));
    place.replaceChildren(make("div.heading", {}, make("div", {}, make("h1", {}, "Dead letters"), this.sum)), this.list, this.noteCard, make("nav.pager", { "aria-label": "Pages" }, this.first, this.more));
    this.ends = [world.queue.on((told, before) => (told.dead !== before?.dead || this.#differs(told.dead)) && this.load()), world.live.on("role", () => this.#roles())];
    world.live.follow([]);
    this.update(route);
  }

  actions = { n: () => this.more.hidden || this.more.click(), p: () => this.first.hidden || this.first.click() };

  update(route) {
    this.after = /^\d+-\d+$/.test(route.terms.get("after") ?? "") ? route.terms.get("after") : "";
    this.#read();
  }

  close() {
    for (const end of this.ends) end();
    this.load.stop();
    this.asking?.abort();
    unpaint(this.render);
  }

  async #read() {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    try {
      const told = await get("api/dead", { after: this.after, limit: PAGE }, asking.signal);
      if (!asking.signal.aborted) this.#place(told);
    } catch (error) {
      if (asking.signal.aborted) return;
      again(error, this.load);
      if (this.#letters.size) return;
      tell(this.note, make("p", {}, `The dead letters cannot be read: ${line(error.message)}.`), make("button.button", { type: "button", click: () => this.#read() }, "Try again"));
    }
  }

  /** Whether there are more or fewer than are shown, where all of them are. */
  #differs(dead) {
    return this.shown != null && dead != null && dead !== this.shown;
  }

  #place({ letters, next }) {
    this.shown = this.after || next != null ? null : letters.length;
    const named = new Set(letters.map((letter) => letter.id));
    for (const id of this.#letters.keys()) if (!named.has(id)) this.#letters.delete(id);
    this.next = letters.map((letter) => {
      if (!this.#letters.has(letter.id)) this.#letters.set(letter.id, this.#letter(letter));
      return this.#letters.get(letter.id);
    });
    if (!letters.length) this.note.replaceChildren(make("p.lead", {}, this.after ? "No more dead letters" : "No dead letters"), make("p", {}, "Every message could be run."));
    show(this.first, Boolean(this.after));
    show(this.more, next != null);
    if (next != null) setAttribute(this.more, "href", `#/dead?after=${next}`);
    paint(this.render);
  }

  #render() {
    if (!this.next) return;
    arrange(this.list, this.next);
    show(this.noteCard, this.next.length === 0);
    this.next = null;
    this.#roles();
  }

  #letter(letter) {
    const fields = Object.entries(letter.fields ?? {}).map(([name, value]) => make("div", {}, make("dt", {}, make("bdi", {}, line(name, 80))), make("dd", {}, make("pre.text", { tabindex: "0" }, make("bdi", {}, block(value, 4096))))));
    const requeue = make("button.button", { type: "button", "data-action": "requeue", click: () => this.#requeue(letter) }, "Requeue");
    const drop = make("button.button.danger", { type: "button", "data-action": "drop", click: () => this.#drop(letter) }, "Drop");
    const facts = [letter.died_at && `${ago(letter.died_at)} (${moment(letter.died_at)})`, letter.source_id && `was ${line(letter.source_id, 40)}`];
    return make(
      "li.card.letter",
      { "data-letter": letter.id, "data-row": true },
      make("div.letter-head", {}, make("span.badge", { "data-status": "failed" }, icon("failed"), make("bdi", {}, line(letter.reason, 80).replaceAll("_", " "))), make("span.sub", {}, facts.filter(Boolean).join(" · ")), make("div.buttons", { "data-acts": true }, requeue, drop)),
      make("p.detail", {}, make("bdi", {}, line(letter.detail, 600))),
      fields.length ? make("details", {}, make("summary", {}, plural(fields.length, "field"), " of the message"), make("dl.fields", {}, fields)) : null,
    );
  }

  #roles() {
    const may = this.world.live.role === "operator";
    for (const node of this.list.querySelectorAll("[data-acts]")) show(node, may);
  }

  async #requeue(letter) {
    const words = "The message goes back to the stream as it was. If what was wrong with it has not changed, it comes back here.";
    if (!(await confirm("Send this message back?", words, "Requeue"))) return;
    await answered(() => post(`api/dead/${letter.id}/requeue`), ({ entry }) => `The message is on the stream again, as ${entry}.`);
    this.#after();
  }

  async #drop(letter) {
    const words = "The message is deleted for good. It cannot be brought back.";
    if (!(await confirm("Drop this message?", words, "Drop it", { dangerous: true }))) return;
    await answered(() => post(`api/dead/${letter.id}/drop`), () => "The message is dropped.");
    this.#after();
  }

  #after() {
    this.#read();
    this.world.queue.load();
  }
}
