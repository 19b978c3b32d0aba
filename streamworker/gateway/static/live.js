// What the gateway tells as it happens: which batches are followed, the state of the connection, and each frame's way to its batch.

import { TERMINAL } from "./batches.js";
import { ROOT } from "./rest.js";
import { connect } from "./streamworker.js";

export class Live {
  role = null;
  #listeners = new Map();
  #wanted = new Set();
  #readers = new Map(); // by id; "*" reads all
  #resting = new Set(); // wanted, but ended: they are heard of among all, should somebody retry them
  #client = null;
  #shown = "";

  constructor(batches) {
    this.batches = batches;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.hurry());
  }

  /** Call `listener` on `batch`, `reset` (both with the batch), `state` (its name and a reason) or `role`; returns what ends it. */
  on(kind, listener) {
    if (!this.#listeners.has(kind)) this.#listeners.set(kind, new Set());
    this.#listeners.get(kind).add(listener);
    return () => this.#listeners.get(kind).delete(listener);
  }

  setRole(role) {
    if (role === this.role) return;
    this.role = role;
    this.#tell("role", role);
  }

  start() {
    if (this.#client) return;
    this.#show("connecting");
    this.#open();
  }

  stop() {
    this.#leave();
    this.#show("out");
  }

  #open() {
    const client = (this.#client = connect(new URL("ws", ROOT)));
    client.onstate = (state) => this.#client === client && this.#turned(state);
    this.#resting.clear();
    this.#read();
  }

  #leave() {
    const client = this.#client;
    this.#client = null;
    this.#readers.clear();
    client?.close();
  }

  /** The gateway could not be reached: what is open may be dead without a word, so begin anew. */
  doubt() {
    if (!this.#client?.state.connected) return;
    this.#leave();
    this.#show("offline");
    this.#open();
  }

  /** Try at once where the next attempt would come later: something says that the gateway is there. */
  hurry() {
    this.#client?.reconnect();
  }

  /** Follow exactly these batches; "*" are all of them. */
  follow(ids) {
    this.#wanted = new Set(ids);
    for (const id of this.#resting) if (!this.#wanted.has(id)) this.#resting.delete(id);
    this.#read();
  }

  /** Read what is wanted, and no more. */
  #read() {
    if (!this.#client) return;
    const ids = new Set([...this.#wanted].filter((id) => !this.#resting.has(id)));
    if (this.#resting.size) ids.add("*");
    for (const [id, reader] of this.#readers) {
      if (ids.has(id)) continue;
      this.#readers.delete(id);
      reader.return();
    }
    for (const id of ids) if (!this.#readers.has(id)) this.#follow(id);
  }

  async #follow(id) {
    const reader = this.#client.watch(id);
    this.#readers.set(id, reader);
    try {
      for await (const frame of reader) if (this.#readers.get(id) === reader) this.#take(frame, id);
    } catch {
      return; // refused, or the connection is closed for good, which its state tells
    }
    if (this.#readers.get(id) !== reader) return;
    this.#readers.delete(id);
    if (this.#wanted.has(id)) this.#resting.add(id);
    this.#read();
  }

  #take({ type, batch_id: id, reset, event }, from) {
    if (!event) return;
    if (from === "*" && this.#wanted.has(id) && !this.#resting.has(id)) return; // told by its id as well, and better
    const batch = this.batches.of(id);
    const anew = type === "snapshot" && batch.event !== null && batch.heard;
    batch.heard = true;
    if (!batch.take(event, reset === true)) return;
    this.#tell("batch", batch);
    if (anew) this.#tell("reset", batch);
    if (TERMINAL.has(event.status) || !this.#resting.delete(id)) return;
    this.#read(); // it goes on
  }

  #turned({ connected, redis, postgres, role, closed }) {
    if (closed) {
      this.#client = null;
      this.#readers.clear();
      this.#show("refused", closed.message);
      this.#tell("closed", closed.code);
      return;
    }
    if (connected) this.setRole(role);
    if (!connected) this.#show("offline");
    else this.#show(postgres === false ? "postgres" : redis === false ? "redis" : "live");
  }

  #show(state, reason) {
    if (state === this.#shown) return;
    this.#shown = state;
    this.#tell("state", state, reason);
  }

  #tell(kind, ...told) {
    for (const listener of this.#listeners.get(kind) ?? []) listener(...told);
  }
}
