// Live progress of batches over one WebSocket (streamworker.v1). No dependencies; Apache-2.0.
//   const client = connect(); // or a gateway's /ws, and { token }
//   client.onstate = (state) => {}; // { connected, redis, postgres, role, closed: an Error }
//   for await (const frame of client.watch(id)) // "*": all batches
//     if (frame.event) show(frame.event); // a snapshot, then events; ends after the batch has, throws if refused
// It comes back by itself and goes on where it was; what is older than the last is dropped, unless it has `reset`.

const SILENCE = 40_000; // ms without a word: it is dead
const LONGEST = 30_000; // ms between two attempts
const MOST = 10_000; // frames for a slow reader, then the newest of each batch; revisions kept

export const connect = (url = new URL("../ws", import.meta.url), options) => new Client(url, options);

export class Client {
  state = { connected: false, redis: null, postgres: null, role: null, closed: null };
  onstate = () => {};
  #url;
  #protocols;
  #socket;
  #attempts = 0;
  #again;
  #silence;
  #watches = new Map(); // by id: readers, revisions seen, the token of what was told

  constructor(url, { token } = {}) {
    this.#url = String(url).replace(/^http/, "ws");
    this.#protocols = ["streamworker.v1"];
    if (token) this.#protocols.push(`bearer.${btoa(token).replace(/\+/g, "-").replace(/\//g, "_").replace(/=/g, "")}`);
    globalThis.addEventListener?.("online", this.reconnect);
    this.#open();
  }

  /** Frames of a batch, or of all. Leaving the loop ends it. */
  watch(id) {
    id = id.toLowerCase().replace(/^(.{8})(....)(....)(....)(?=.{12}$)/, "$1-$2-$3-$4-"); // as frames have it
    const reader = new Reader(() => this.#leave(id, reader));
    const watch = this.#watches.get(id) ?? { readers: new Set(), seen: new Map() };
    this.#watches.set(id, watch);
    watch.readers.add(reader);
    delete watch.token; // the new one has seen nothing
    if (this.state.closed) reader.end(this.state.closed);
    else this.#subscribe(id, watch);
    return reader;
  }

  close() {
    this.#socket?.close();
    this.#end();
  }

  reconnect = () => this.#again && this.#open();

  #open() {
    clearTimeout(this.#again);
    this.#again = null;
    const socket = (this.#socket = new WebSocket(this.#url, this.#protocols));
    this.#listen(socket);
    socket.onopen = () => this.#watches.forEach((watch, id) => this.#subscribe(id, watch));
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#listen(socket);
      this.#take(JSON.parse(data));
    };
    socket.onerror = socket.onclose = (event) => this.#lost(socket, event);
  }

  #listen(socket) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#lost(socket);
      socket.close();
    }, SILENCE);
  }

  #lost(socket, { code, reason } = {}) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    if (code >= 4400 && code < 4500) return this.#end(Object.assign(new Error(reason || `refused: ${code}`), { code }));
    clearTimeout(this.#silence);
    this.#tell({ connected: false });
    this.#again = setTimeout(() => this.#open(), Math.random() * Math.min(LONGEST, 500 * 2 ** this.#attempts++));
  }

  #end(error) {
    clearTimeout(this.#again);
    clearTimeout(this.#silence);
    this.#again = this.#socket = null;
    globalThis.removeEventListener?.("online", this.reconnect);
    this.#tell({ connected: false, closed: error ?? new Error("closed") });
    for (const { readers } of this.#watches.values()) for (const reader of readers) reader.end(error);
  }

  #tell(change) {
    this.onstate((this.state = { ...this.state, ...change }));
  }

  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #subscribe(id, { token }) {
    this.#send({ type: "subscribe", batch_id: id, since: token });
  }

  #leave(id, reader) {
    const watch = this.#watches.get(id);
    if (!watch?.readers.delete(reader) || watch.readers.size) return;
    this.#watches.delete(id);
    this.#send({ type: "unsubscribe", batch_id: id });
  }

  #take(frame) {
    const { type, redis, postgres, role, batch_id: id } = frame;
    if (type === "hello") {
      this.#attempts = 0;
      this.#tell({ connected: true, redis, postgres: true, role });
    } else if (type === "state") {
      this.#tell({ redis, postgres });
    }
    if (!id) return;
    const own = this.#watches.get(id);
    const all = this.#watches.get("*");
    const told = own ?? all; // what is watched by its id is not told again among all
    if (told && frame.id) told.token = frame.id;
    for (const watch of new Set([own, all])) if (watch) this.#pass(watch, frame, watch === own);
  }

  #pass({ seen, readers }, frame, ends) {
    const { batch_id: id, event, code } = frame;
    if (event) {
      if (!frame.reset && seen.get(id) > event.revision) return;
      seen.set(id, event.revision);
      if (seen.size > MOST) seen.delete(seen.keys().next().value);
    }
    for (const reader of readers) {
      reader.push(frame);
      if (ends && (code || frame.type === "end")) reader.end(code && code !== 4404 && new Error(frame.message));
    }
  }
}

class Reader {
  #frames = [];
  #wake;
  #end;
  #leave;
  [Symbol.asyncIterator] = () => this;

  constructor(leave) {
    this.#leave = leave;
  }

  push(frame) {
    if (this.#frames.length >= MOST) this.#frames = [...new Map(this.#frames.map((one) => [one.batch_id, one])).values()];
    this.#frames.push(frame);
    this.#wake?.();
  }

  end(error) {
    this.#end ??= { error };
    this.#leave();
    this.#wake?.();
  }

  async next() {
    while (!this.#frames.length) {
      if (this.#end?.error) throw this.#end.error;
      if (this.#end) return { done: true };
      await new Promise((wake) => (this.#wake = wake));
    }
    return { value: this.#frames.shift() };
  }

  async return() {
    this.end();
    return { done: true };
  }
}
