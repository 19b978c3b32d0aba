// The stream of jobs: its length, what is pending, and the dead letters; asked for every few seconds while the page is looked at.

import { setAttribute, setText, show } from "./dom.js";
import { count } from "./format.js";
import { everySecond, throttle } from "./paint.js";
import { get } from "./rest.js";

const EVERY = 3000; // milliseconds

export class Queue {
  told = null;
  #listeners = new Set();

  constructor() {
    this.load = throttle(() => this.ask(), EVERY - 200);
  }

  start() {
    this.load();
    this.end = everySecond(() => this.load());
  }

  stop() {
    this.end?.();
  }

  on(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async ask() {
    let told;
    try {
      told = await get("api/queue");
    } catch {
      return; // the connection's lamp tells it
    }
    const before = this.told;
    this.told = told;
    const known = told.redis !== false && told.length != null;
    setText(document.getElementById("queue-length"), known ? count(told.length) : "–");
    setText(document.getElementById("queue-pending"), known ? count(told.pending) : "–");
    const dead = document.getElementById("dead-count");
    show(dead, Boolean(told.dead));
    setText(dead, count(told.dead ?? 0));
    setAttribute(dead, "title", told.dead ? "dead letters" : null);
    for (const listener of this.#listeners) listener(told, before);
  }
}
