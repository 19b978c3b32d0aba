// What the gateway tells as it happens: which batches are followed, the state of the connection, and each frame's way to its batch.

import { address } from "./rest.js";

const CAUSES = { 4401: "out", 4403: "refused" };

export class Live {
  role = null;
  #listeners = new Map();
  #wanted = new Set();
  #stream = null;
  #servers = { redis: true, postgres: true };
  #connected = false;
  #shown = "";

  constructor(batches) {
    this.batches = batches;
  }

  /** Call `listener` on `batch`, `reset` (both with the batch), `state` (with its name) or `role`; returns what ends it. */
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
    if (this.#stream) return;
    this.#state();
    const url = address("ws").replace(/^http/, "ws");
    this.#stream = new Socket(url, (frame) => this.#take(frame), (open, code) => this.#turned(open, code));
    for (const id of this.#wanted) this.#stream.subscribe(id);
  }

  stop(state) {
    this.#stream?.close();
    this.#stream = null;
    this.#connected = false;
    this.#state(state);
  }

  /** Follow exactly these batches; "*" are all of them. */
  follow(ids) {
    const wanted = new Set(ids);
    for (const id of this.#wanted) if (!wanted.has(id)) this.#stream?.unsubscribe(id);
    for (const id of wanted) if (!this.#wanted.has(id)) this.#stream?.subscribe(id);
    this.#wanted = wanted;
  }

  #take(frame) {
    switch (frame.type) {
      case "hello":
        this.setRole(frame.role);
        this.#servers = { redis: frame.redis !== false, postgres: true };
        break;
      case "state":
        this.#servers = { redis: frame.redis, postgres: frame.postgres };
        break;
      case "snapshot":
      case "event":
        this.#event(frame);
        return;
      default:
        return;
    }
    this.#state();
  }

  #event({ type, batch_id: id, reset, event }) {
    const batch = this.batches.of(id);
    const anew = type === "snapshot" && reset && batch.event !== null;
    if (!batch.take(event, reset === true)) return;
    this.#tell("batch", batch);
    if (anew) this.#tell("reset", batch);
  }

  #turned(open, code) {
    this.#connected = open;
    if (!open && CAUSES[code] === "refused") return this.#state("refused");
    this.#state();
  }

  #state(given) {
    const { redis, postgres } = this.#servers;
    const state = given ?? (!this.#connected ? (this.#shown && this.#shown !== "connecting" ? "offline" : "connecting") : !postgres ? "postgres" : !redis ? "redis" : "live");
    if (state === this.#shown) return;
    this.#shown = state;
    this.#tell("state", state);
  }

  #tell(kind, ...told) {
    for (const listener of this.#listeners.get(kind) ?? []) listener(...told);
  }
}

class Socket {
  #wanted = new Map();
  constructor(url, take, turned) {
    Object.assign(this, { url, take, turned });
    this.open();
  }
  open() {
    const socket = (this.socket = new WebSocket(this.url, ["streamworker.v1"]));
    socket.onopen = () => {
      this.turned(true);
      for (const [id, since] of this.#wanted) this.send(id, since);
    };
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.id) for (const id of this.#wanted.keys()) if (id === "*" || id === frame.batch_id) this.#wanted.set(id, frame.id);
      this.take(frame);
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.socket) return;
      this.turned(false, code);
      if (!(code >= 4400 && code < 4500)) setTimeout(() => this.socket && this.open(), 300 + 700 * Math.random());
    };
  }
  send(id, since) {
    if (this.socket.readyState === 1) this.socket.send(JSON.stringify({ type: "subscribe", batch_id: id, ...(since && { since }) }));
  }
  subscribe(id) {
    this.#wanted.set(id, null);
    this.send(id);
  }
  unsubscribe(id) {
    this.#wanted.delete(id);
    if (this.socket.readyState === 1) this.socket.send(JSON.stringify({ type: "unsubscribe", batch_id: id }));
  }
  close() {
    const { socket } = this;
    this.socket = null;
    socket.close();
  }
}
