// The live progress of batches over one WebSocket (protocol streamworker.v1). No build, no dependencies; free to copy (Apache-2.0).
//
//   const client = connect("wss://example.org/ws");            // nothing given: /ws beside this module
//   for await (const frame of client.watch(batchId)) {         // "*": all batches
//     if (frame.type === "snapshot" || frame.type === "event") show(frame.event);
//   }                                                          // ends after the batch has
//   client.onstate = ({ connected, redis, postgres }) => {};   // `client.state` has the same
//
// It comes back by itself and goes on where it was. Frames with an older revision than the last of their batch are dropped.

const SILENCE = 40_000; // ms without a word, heartbeats included: the connection is dead
const LONGEST = 30_000; // ms between two attempts
const BUFFER = 10_000; // frames that a slow reader may leave; then it gets the newest states only

export function connect(url = new URL("../ws", import.meta.url), options = {}) {
  return new Client(url, options);
}

export class Client {
  state = { connected: false, redis: null, postgres: null, role: null, closed: null };
  onstate = () => {};
  #url;
  #protocols;
  #make;
  #socket = null;
  #watches = new Map(); // batch id -> { readers, revision, status, token }
  #attempts = 0;
  #timer = null;
  #silence = null;

  constructor(url, { token, WebSocket = globalThis.WebSocket } = {}) {
    this.#url = String(url).replace(/^http/, "ws");
    this.#protocols = ["streamworker.v1", ...(token ? ["streamworker.token." + encode(token)] : [])];
    this.#make = WebSocket;
    globalThis.addEventListener?.("online", this.#now);
    this.#open();
  }

  /** Frames of one batch ("*": of all), as an async iterator. Leaving the loop ends it. */
  watch(id) {
    const reader = new Reader(() => this.#leave(id, reader));
    if (this.state.closed) reader.end(this.state.closed);
    let watch = this.#watches.get(id);
    if (watch) {
      watch.readers.add(reader);
      watch.token = null; // the new one needs a snapshot
    } else {
      this.#watches.set(id, (watch = { readers: new Set([reader]), seen: new Map(), token: null }));
    }
    this.#subscribe(id, watch);
    return reader;
  }

  /** End everything. */
  close() {
    this.#end(null);
    this.#socket?.close(1000);
  }

  #now = () => {
    if (this.#timer && !this.state.closed) {
      clearTimeout(this.#timer);
      this.#open();
    }
  };

  #open() {
    this.#timer = null;
    const socket = (this.#socket = new this.#make(this.#url, this.#protocols));
    this.#listen();
    socket.onopen = () => {
      this.#listen();
      for (const [id, watch] of this.#watches) this.#subscribe(id, watch);
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#listen();
      this.#take(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => socket === this.#socket && this.#lost(code, reason);
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      const socket = this.#socket;
      this.#lost(1006, "silence");
      socket.close();
    }, SILENCE);
  }

  #lost(code, reason) {
    clearTimeout(this.#silence);
    this.#socket = null;
    if (this.state.closed) return;
    if (code >= 4400 && code < 4500) return this.#end(new Error(reason || "refused (" + code + ")"));
    this.#tell({ connected: false });
    const longest = Math.min(LONGEST, 500 * 2 ** this.#attempts++);
    this.#timer = setTimeout(() => this.#open(), Math.random() * longest);
  }

  #end(error) {
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
    globalThis.removeEventListener?.("online", this.#now);
    this.#tell({ connected: false, closed: error ?? true });
    for (const { readers } of this.#watches.values()) for (const reader of readers) reader.end(error);
    this.#watches.clear();
  }

  #tell(change) {
    this.state = { ...this.state, ...change };
    this.onstate(this.state);
  }

  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #subscribe(id, { token }) {
    this.#send({ type: "subscribe", batch_id: id, ...(token && { since: token }) });
  }

  #leave(id, reader) {
    const watch = this.#watches.get(id);
    if (watch?.readers.delete(reader) && !watch.readers.size) {
      this.#watches.delete(id);
      this.#send({ type: "unsubscribe", batch_id: id });
    }
  }

  #take(frame) {
    switch (frame.type) {
      case "hello":
        this.#attempts = 0;
        return this.#tell({ connected: true, redis: frame.redis, postgres: true, role: frame.role });
      case "state":
        return this.#tell({ redis: frame.redis, postgres: frame.postgres });
      case "live": // all that was asked for has been told up to here
        for (const watch of this.#watches.values()) this.#pass(watch, frame);
        return;
    }
    if (!frame.batch_id) return;
    // A batch that is watched by its id is not told among all of them.
    const watch = this.#watches.get(frame.batch_id) ?? this.#watches.get("*");
    if (watch) this.#pass(watch, frame);
  }

  #pass(watch, frame) {
    const { event } = frame;
    if (event) {
      const seen = watch.seen.get(frame.batch_id);
      if (seen > event.revision && !frame.reset) return;
      watch.seen.set(frame.batch_id, event.revision);
    }
    if (frame.id) watch.token = frame.id;
    for (const reader of [...watch.readers]) {
      reader.push(frame);
      if (watch !== this.#watches.get("*") && (frame.type === "end" || frame.type === "error")) reader.end(null);
    }
  }
}

class Reader {
  #frames = [];
  #waiting = null;
  #over = false;
  #error = null;
  #leave;

  constructor(leave) {
    this.#leave = leave;
  }

  push(frame) {
    if (this.#over) return;
    if (this.#frames.length >= BUFFER) this.#frames = newest(this.#frames);
    this.#frames.push(frame);
    this.#wake();
  }

  end(error) {
    this.#over = true;
    this.#error = error;
    this.#leave();
    this.#wake();
  }

  async next() {
    while (!this.#frames.length) {
      if (this.#error) throw this.#error;
      if (this.#over) return { done: true, value: undefined };
      await new Promise((resolve) => (this.#waiting = resolve));
    }
    return { done: false, value: this.#frames.shift() };
  }

  async return() {
    this.#frames = [];
    this.end(null);
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  #wake() {
    this.#waiting?.();
    this.#waiting = null;
  }
}

function newest(frames) {
  return [...new Map(frames.map((frame) => [frame.batch_id, { ...frame, reset: true }])).values()];
}

function encode(token) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(token))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
