// Asks the gateway's REST API; an answer is JSON, a refusal is a Refused with a sentence for people.

import { learnClock } from "./format.js";

/** Where the gateway is, also when it is mounted below another application. */
export const ROOT = new URL("../", import.meta.url);

/** What the gateway has refused, or that it cannot be reached (status 0). */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const AGAIN = 2000; // milliseconds, and at random up to twice that: not all pages at the same moment

const left = new Set();
const heard = new Set();
const failed = new Set();

/** Call `listener` whenever an answer says that this client must sign in. */
export const onSignedOut = (listener) => left.add(listener);

/** Call `listener` whenever the gateway has answered. */
export const onAnswer = (listener) => heard.add(listener);

/** Call `listener` whenever the gateway could not be reached. */
export const onFailure = (listener) => failed.add(listener);

/** The address of something below the root, with a query of what is given in `terms`. */
export function address(path, terms = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(terms)) if (value != null && value !== "") url.searchParams.set(name, value);
  return url.href;
}

/** GET; `signal` gives it up. */
export const get = (path, terms, signal) => ask("GET", address(path, terms), undefined, signal);

/** POST. */
export const post = (path, body = {}) => ask("POST", address(path), body);

/** DELETE. */
export const remove = (path) => ask("DELETE", address(path), {});

/** What could not be read since something was away is asked for once more in a while: by `load`, which its view stops. */
export function again(error, load) {
  if (error.status === 0 || error.status === 503) setTimeout(load, AGAIN + AGAIN * Math.random());
}

async function ask(method, url, body, signal) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, { method, headers, body: body && JSON.stringify(body), credentials: "same-origin", cache: "no-store", signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    for (const listener of failed) listener();
    throw new Refused(0, "the gateway cannot be reached");
  }
  for (const listener of heard) listener();
  learnClock(answer.headers.get("date"));
  const told = await answer.json().catch(() => null);
  if (answer.ok) return told;
  if (answer.status === 401 && !url.endsWith("api/session")) for (const listener of left) listener();
  throw new Refused(answer.status, told?.error ?? `the gateway answered ${answer.status}`);
}
