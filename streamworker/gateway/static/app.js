// The page: which view is shown for which address, who is signed in, and the state of the connection.

import { Batches } from "./batches.js";
import { make, setAttribute, setText, show } from "./dom.js";
import { dismiss } from "./dialogs.js";
import { moment, now } from "./format.js";
import { setActions, showKeys } from "./keys.js";
import { Live } from "./live.js";
import { Queue } from "./queue.js";
import { get, onAnswer, onFailure, onSignedOut, remove } from "./rest.js";
import { BatchView } from "./view-batch.js";
import { DeadView } from "./view-dead.js";
import { ListView } from "./view-list.js";
import { LoginView } from "./view-login.js";
import { WorkersView } from "./view-workers.js";

const VIEWS = { batches: BatchView, workers: WorkersView, dead: DeadView };
const STATES = {
  connecting: ["Connecting", ""],
  live: ["Live", ""],
  offline: ["Offline", "Not connected. What you see is as it was at {since}; the page goes on by itself as soon as the gateway answers."],
  redis: ["No Redis", "Redis is away. What you see is as it was at {since}; batches that run go on, and the page with them once Redis is back."],
  postgres: ["No Postgres", "Postgres is away. What you see is as it was at {since}; nothing is recorded until it is back."],
  refused: ["Refused", "The gateway refuses live updates to this page: {why}."],
  out: ["Signed out", ""],
};

const world = { batches: new Batches((id) => view?.shows?.(id)), queue: new Queue(), signedIn };
world.live = new Live(world.batches);

let view = null;
let shown = null;
let session = { role: null, token_required: false };

function route() {
  const [path, terms] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decode), terms: new URLSearchParams(terms ?? "") };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function navigate() {
  if (session.role === null) return;
  const where = route();
  const name = where.path[0] ?? "";
  const View = name === "batches" && !where.path[1] ? ListView : (VIEWS[name] ?? ListView);
  if (view && shown === View && view.update(where) !== false) return;
  open(View, where);
}

function open(View, where) {
  if (view) dismiss();
  view?.close();
  const main = document.getElementById("main");
  const moved = view !== null;
  shown = View;
  view = new View(main, where, world);
  setActions(view.actions);
  document.title = `${view.title} · streamworker`;
  const tab = View === WorkersView ? "workers" : View === DeadView ? "dead" : View === LoginView ? "" : "batches";
  for (const link of document.querySelectorAll("#tabs a")) setAttribute(link, "aria-current", link.dataset.view === tab ? "page" : null);
  window.scrollTo(0, 0);
  if (moved && View !== LoginView) main.focus({ preventScroll: true });
}

function signedIn(told) {
  session = told;
  world.live.setRole(told.role);
  show(document.getElementById("leave"), told.token_required);
  show(document.getElementById("tabs"), true);
  show(document.getElementById("queue"), true);
  world.live.start();
  world.queue.start();
  view?.close();
  view = null;
  navigate();
}

function signedOut() {
  if (shown === LoginView) return;
  session = { role: null, token_required: true };
  world.live.stop();
  world.queue.stop();
  for (const id of ["leave", "tabs", "queue"]) show(document.getElementById(id), false);
  open(LoginView, route());
}

let since = null;

function showState(state, why) {
  const [word, sentence] = STATES[state];
  const node = document.getElementById("connection");
  setAttribute(node, "data-state", state);
  setText(document.getElementById("connection-text"), word);
  document.body.dataset.connection = state;
  if (state === "live") since = null;
  else if (since === null) since = now();
  const banner = document.getElementById("banner");
  show(banner, Boolean(sentence));
  setText(banner, sentence.replace("{since}", moment(since)).replace("{why}", why || "no reason given"));
}

async function begin() {
  try {
    const told = await get("api/session");
    if (told.role === null) signedOut();
    else signedIn(told);
  } catch (error) {
    if (error.status === 401) return signedOut();
    showState("offline");
    const main = document.getElementById("main");
    main.replaceChildren(make("section.card", {}, make("div.empty", { role: "status" }, make("p.lead", {}, "The gateway does not answer"), make("p", {}, `${error.message}. The page tries again by itself.`))));
    setTimeout(begin, 2000 + 2000 * Math.random());
  }
}

world.live.on("state", showState);
world.live.on("closed", async (code) => {
  const told = await get("api/session").catch(() => null);
  if (code === 4401 && told?.role === null) signedOut();
});
onAnswer(() => world.live.hurry());
onFailure(() => world.live.doubt());
window.addEventListener("offline", () => world.queue.ask()); // which may also be a gateway on this machine that is still there
onSignedOut(signedOut);
window.addEventListener("hashchange", navigate);
document.getElementById("help").addEventListener("click", showKeys);
document.getElementById("leave").addEventListener("click", async () => {
  await remove("api/session").catch(() => {});
  signedOut();
});
begin();
