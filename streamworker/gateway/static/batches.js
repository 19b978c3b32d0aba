// What is known of each batch: the newest revision wins, whoever tells it. Nothing here touches the page.

import { now } from "./format.js";

export const TERMINAL = new Set(["completed", "failed", "cancelled"]);
const RATE_WINDOW = 30000; // milliseconds
const SAMPLE_EVERY = 500;
const SAMPLES = 64;
const KEPT = 1000; // batches; all that happens is told while the list is shown, for days
const RECENT = 2000; // item changes remembered for a batch, so that an older answer of the API does not undo them

/** One batch. */
export class Batch {
  constructor(id) {
    this.id = id;
    this.event = null; // the counters: contract 2's event, of the highest revision seen
    this.row = null; // the rest of what the API tells: processor, metadata, times
    this.running = new Map(); // position -> what the item in flight is at
    this.recent = new Map(); // position -> {item, at}
    this.samples = []; // [milliseconds, processed]
    this.heard = false; // whether a frame told it
  }

  /** Whether `revision` of `epoch` tells something that is not older than what is known. */
  accepts(revision, epoch) {
    const known = this.event;
    return !known || revision > known.revision || (revision === known.revision && epoch >= known.epoch);
  }

  /** Take over an event; false when it was older than what is known. */
  take(event, reset = false) {
    if (!reset && !this.accepts(event.revision, event.epoch)) return false;
    const known = this.event;
    if (reset || known?.epoch !== event.epoch) this.running.clear();
    if (reset) this.recent.clear();
    if (known && event.processed < known.processed) this.samples.length = 0; // retried
    this.event = event;
    this.#sample(event);
    this.#follow(event);
    if (this.row) this.#complete(event, known);
    return true;
  }

  /** Take over what the API tells; its counters only where they are newer. */
  learn(row) {
    const older = this.row && this.row.revision > row.revision;
    if (!older) this.row = { ...row };
    const known = this.event;
    if (known && row.revision <= known.revision) {
      this.#complete(known, null);
      return;
    }
    this.take({
      batch_id: row.id, revision: row.revision, epoch: row.epoch, at: row.updated_at, status: row.status,
      total: row.total, processed: row.processed, succeeded: row.succeeded, failed: row.failed,
      percent: row.percent, eta_seconds: row.eta_seconds ?? null, worker: row.worker, error: row.error, items: [],
    });
  }

  get ended() {
    return TERMINAL.has(this.event?.status);
  }

  /** Whether it waits for a service that is away. */
  get paused() {
    return this.event?.status === "processing" && Boolean(this.event.error?.startsWith("paused"));
  }

  /** Items a second, over the last half minute or the last few changes; null while nothing sensible can be said. */
  get rate() {
    const event = this.event;
    if (!event || event.status !== "processing") return null;
    const at = now();
    let from = this.samples.findIndex(([when]) => at - when <= RATE_WINDOW);
    const last = this.samples.length - 1;
    if (from < 0 || last - from < 4) from = Math.max(0, last - 4);
    if (last > from) {
      const [start, before] = this.samples[from];
      const seconds = (Math.max(at, this.samples[last][0]) - start) / 1000;
      if (seconds >= 1) return (this.samples[last][1] - before) / seconds;
    }
    return event.eta_seconds > 0 ? (event.total - event.processed) / event.eta_seconds : null;
  }

  /** Items a second over the whole time of a batch that has ended. */
  get average() {
    const { started_at: from, finished_at: to } = this.row ?? {};
    const seconds = (Date.parse(to) - Date.parse(from)) / 1000;
    return seconds > 0 ? this.event.processed / seconds : null;
  }

  /** Seconds that are left, by the worker's own estimate; null where there is none. */
  get left() {
    const event = this.event;
    if (!event || event.status !== "processing") return null;
    if (event.eta_seconds != null) return Math.max(0, event.eta_seconds - Math.max(0, now() - Date.parse(event.at)) / 1000);
    const rate = this.rate;
    return rate ? (event.total - event.processed) / rate : null;
  }

  /** An item of the API, with what was told of it after `asked` (milliseconds of performance.now). */
  newest(item, asked) {
    const told = this.recent.get(item.position);
    if (!told || told.at < asked) return item;
    return { ...item, status: told.item.status, attempts: told.item.attempt, error: told.item.error ?? item.error };
  }

  #sample(event) {
    const at = Date.parse(event.at);
    const last = this.samples.at(-1);
    if (Number.isNaN(at) || (last && (event.processed === last[1] || at < last[0]))) return;
    if (this.samples.length > 1 && at - this.samples.at(-2)[0] < SAMPLE_EVERY) this.samples.pop();
    this.samples.push([at, event.processed]);
    if (this.samples.length > SAMPLES) this.samples.shift();
  }

  #follow(event) {
    const at = performance.now();
    for (const item of event.items) {
      if (item.status === "processing") this.running.set(item.position, item);
      else this.running.delete(item.position);
      this.recent.delete(item.position);
      this.recent.set(item.position, { item, at });
    }
    if (event.status !== "processing") this.running.clear();
    for (const position of this.recent.keys()) {
      if (this.recent.size <= RECENT) break;
      this.recent.delete(position);
    }
  }

  /** The times that only a row tells, as far as the event's status says them. */
  #complete(event, before) {
    const row = this.row;
    if (event.revision < row.revision) return;
    if (TERMINAL.has(event.status)) row.finished_at ??= event.at;
    else row.finished_at = null;
    if (event.status === "processing" && before?.status !== "processing") row.started_at ??= event.at;
  }
}

/** All batches that were heard of; those nobody looks at are forgotten, the oldest first. */
export class Batches {
  #known = new Map();
  #shown;

  /** `shown(id)`: whether somebody looks at this batch. */
  constructor(shown) {
    this.#shown = shown;
  }

  /** The batch with this id, which may be a new one. */
  of(id) {
    let found = this.#known.get(id);
    if (!found) {
      this.#known.set(id, (found = new Batch(id)));
      this.#forget();
    }
    return found;
  }

  /** The batch with this id, or undefined. */
  find(id) {
    return this.#known.get(id);
  }

  #forget() {
    for (const id of this.#known.keys()) {
      if (this.#known.size <= KEPT) return;
      if (!this.#shown(id)) this.#known.delete(id);
    }
  }
}
