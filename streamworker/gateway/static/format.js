// Turns numbers, times and foreign texts into what people read.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

let skew = 0; // milliseconds that this machine's clock is ahead of the server's
let measured = false;

/** Learn the server's clock from the `Date` of an answer. */
export function learnClock(date) {
  const at = Date.parse(date ?? "");
  if (Number.isNaN(at)) return;
  const ahead = Date.now() - at - 500; // the header tells whole seconds
  skew = measured ? Math.min(skew, ahead) : ahead;
  if (Math.abs(ahead - skew) > 5000) skew = ahead; // one of the clocks was set
  measured = true;
}

/** The server's time in milliseconds. */
export const now = () => Date.now() - skew;

/** 1,234,567 */
export const count = (number) => whole.format(number ?? 0);

/** 61.2 % of a whole: never 100 % before the end, and never 0 % once something is done. */
export function percent(part, total) {
  if (!total) return "0 %";
  const exact = (100 * part) / total;
  if (part < total) return `${Math.min(99.9, part ? Math.max(0.1, Math.floor(exact * 10) / 10) : 0).toFixed(total < 1000 ? 0 : 1)} %`;
  return "100 %";
}

/** How many a second, or a minute, or an hour. */
export function rate(perSecond) {
  if (perSecond == null || !Number.isFinite(perSecond) || perSecond <= 0) return "";
  if (perSecond >= 10) return `${count(perSecond)}/s`;
  if (perSecond >= 1) return `${perSecond.toFixed(1)}/s`;
  if (perSecond * 60 >= 1) return `${(perSecond * 60).toFixed(perSecond * 60 >= 10 ? 0 : 1)}/min`;
  return `${(perSecond * 3600).toFixed(perSecond * 3600 >= 10 ? 0 : 1)}/h`;
}

/** `0.4 s`, `8 s`, `5 min 10 s`, `3 h 04 min`, `2 d 11 h` */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "";
  const given = Math.max(0, seconds);
  if (given < 10) return `${given.toFixed(1)} s`;
  const s = Math.round(given);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long something took: a duration, and milliseconds where it was quick. */
export const elapsed = (seconds) => (seconds != null && seconds < 1 ? `${Math.max(0, Math.round(seconds * 1000))} ms` : duration(seconds));

/** How long is left, told so that it does not flicker. */
export function left(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "";
  return seconds < 1 ? "a moment" : duration(seconds < 10 ? Math.ceil(seconds) + 0.0001 : seconds).replace(/(\d)\.0 s/, "$1 s");
}

/** `just now`, `40 s ago`, `3 min ago`, `2 h ago`, `4 d ago` */
export function ago(iso, at = now()) {
  const seconds = (at - Date.parse(iso)) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** The time of day here, with the day where it is another one. */
export function moment(iso) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  const same = at.toDateString() === new Date(now()).toDateString();
  return same ? time.format(at) : `${day.format(at)}, ${time.format(at)}`;
}

/** The seconds between two moments; the second one may be missing: then until now. */
export function between(from, to) {
  return from ? ((to ? Date.parse(to) : now()) - Date.parse(from)) / 1000 : null;
}

// Controls, marks that turn the direction of writing, and what has no width and can hide something. ZWJ and ZWNJ are part of words.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const spell = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** A foreign text for one line: what is not to be seen is spelt out, and what is too long is cut. */
export function line(text, limit = 300) {
  return block(text, limit).replace(/[\n\t]+/g, " ");
}

/** A foreign text that may have several lines. */
export function block(text, limit = 100000) {
  const given = String(text ?? "");
  const cut = given.length > limit ? `${given.slice(0, limit - 1).replace(/[\ud800-\udbff]$/, "")}…` : given;
  return cut.replace(/\r\n/g, "\n").replace(HIDDEN, spell);
}

/** The first part of an id: enough to tell batches apart. */
export const short = (id) => String(id).slice(0, 8);

/** What a batch is called: the name its metadata gives it, else its id. */
export function title(batch) {
  const named = batch.metadata?.name ?? batch.metadata?.title;
  return typeof named === "string" && named.trim() ? line(named, 120) : short(batch.id ?? batch.batch_id);
}

/** `1 item`, `2 items` */
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
