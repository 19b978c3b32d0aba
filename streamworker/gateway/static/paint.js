// When the page is painted: at most once an animation frame, and once a second for what depends on the time.

const jobs = new Set();
const clocks = new Set();
let asked = false;

/** Run `job` in the next frame, once, however often it is asked for. */
export function paint(job) {
  jobs.add(job);
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const now = [...jobs];
    jobs.clear();
    for (const each of now) each();
  });
}

/** Forget a job that is not to run any more. */
export function unpaint(job) {
  jobs.delete(job);
}

/** Run `job` once a second while the page is looked at; returns what ends it. */
export function everySecond(job) {
  clocks.add(job);
  return () => clocks.delete(job);
}

setInterval(() => {
  if (document.visibilityState === "visible") for (const job of clocks) paint(job);
}, 1000);

/** `call()` at once, and after that at most once in `pause` milliseconds; the last call is never lost, no two run at a time. */
export function throttle(call, pause) {
  let busy = false;
  let again = false;
  let stopped = false;
  const run = async () => {
    if (busy || stopped) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    try {
      await call();
    } finally {
      setTimeout(() => {
        busy = false;
        if (again) run();
      }, pause);
    }
  };
  run.stop = () => {
    stopped = true;
  };
  return run;
}
