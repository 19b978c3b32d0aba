// A batch over time: how much is done, and below it how many items a second; drawn as SVG from cumulative samples.

import { draw, make, setAttribute, setText } from "./dom.js";
import { count, duration, moment, percent, plural, rate } from "./format.js";

const HEIGHT = 232;
const TOP = { from: 10, to: 128 };
const LOW = { from: 156, to: 206 };
const LEFT = 54;
const RIGHT = 8;
const MOST = 480; // samples kept
const BARS = 60;
const STEPS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

/** The chart of one batch: `load(samples)` what the gateway saw, `add(sample)` what happens now, then `render()`. */
export class Chart {
  #samples = [];
  #total = 0;
  #width = 0;
  #bars = [];

  constructor() {
    const grid = [0, 0.5, 1].map((share) => draw("line", { class: "grid", "data-share": share }));
    this.grid = [...grid, draw("line", { class: "grid" }), draw("line", { class: "grid" })];
    this.labels = ["100 %", "50 %", "0", "", "0"].map((text) => draw("text", { class: "tick", "text-anchor": "end", x: LEFT - 8 }, text));
    this.times = draw("g", { class: "tick" });
    this.done = draw("path", { class: "area done" });
    this.bad = draw("path", { class: "area bad" });
    this.edge = draw("path", { class: "edge" });
    this.rates = draw("path", { class: "rates" });
    this.cursor = draw("line", { class: "cursor", y1: TOP.from, y2: LOW.to, visibility: "hidden" });
    this.svg = draw("svg", { height: HEIGHT, role: "img" }, this.grid, this.labels, this.times, this.done, this.bad, this.edge, this.rates, this.cursor);
    this.readout = make("p.readout");
    this.empty = make("p.empty", {}, "Nothing to draw yet.");
    this.node = make("figure.chart", {}, make("figcaption", {}, make("h2", {}, "Progress and throughput"), this.readout), this.empty, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#leave());
  }

  /** Follow the width of the page; returns what ends it. */
  watch(redraw) {
    const observer = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width === this.#width) return;
      this.#width = width;
      redraw();
    });
    observer.observe(this.node);
    return () => observer.disconnect();
  }

  load(samples) {
    const earlier = samples.map(({ at, processed, failed }) => ({ t: Date.parse(at), processed, failed }));
    const known = new Set(this.#samples.map(({ t }) => t));
    // What came meanwhile is finer than what the gateway keeps: neither takes the other's place.
    const all = [...earlier.filter(({ t }) => !known.has(t)), ...this.#samples].sort((a, b) => a.t - b.t);
    const anew = all.findLastIndex(({ processed }, n) => n > 0 && processed < all[n - 1].processed); // retried since
    this.#samples = all.slice(Math.max(anew, 0));
  }

  add({ at, processed, failed, total }) {
    this.#total = total;
    const t = Date.parse(at);
    const last = this.#samples.at(-1);
    if (Number.isNaN(t) || (last && (t < last.t || (processed === last.processed && failed === last.failed && t - last.t < 1000)))) return;
    const span = last ? t - this.#samples[0].t : 0;
    if (this.#samples.length > 2 && t - this.#samples.at(-2).t < span / MOST) this.#samples.pop();
    this.#samples.push({ t, processed, failed });
    if (this.#samples.length > MOST) this.#samples = this.#samples.filter((_, n) => n % 2 === 0 || n === this.#samples.length - 1);
  }

  /** Whether there is anything to draw. */
  get worth() {
    const samples = this.#samples;
    return samples.length > 1 && samples.at(-1).t > samples[0].t && this.#total > 0;
  }

  render() {
    const samples = this.#samples;
    const enough = this.worth;
    this.empty.hidden = enough;
    setAttribute(this.svg, "visibility", enough ? null : "hidden");
    if (!enough || this.#width < 80) return;
    const start = samples[0].t;
    const span = samples.at(-1).t - start;
    const inner = this.#width - LEFT - RIGHT;
    const x = (t) => LEFT + ((t - start) / span) * inner;
    const y = (n) => TOP.to - (n / this.#total) * (TOP.to - TOP.from);
    setAttribute(this.svg, "width", this.#width);
    setAttribute(this.svg, "viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    this.#area(samples, x, y);
    this.#throughput(samples, x, start, span);
    this.#axes(span, inner);
    if (!this.pointing) this.#tell(samples.at(-1));
    const last = samples.at(-1);
    setAttribute(this.svg, "aria-label", `Progress over ${duration(span / 1000)}: ${percent(last.processed, this.#total)} of ${plural(this.#total, "item")} done, ${count(last.failed)} failed`);
  }

  #area(samples, x, y) {
    const good = samples.map((s) => `${x(s.t).toFixed(1)} ${y(s.processed - s.failed).toFixed(1)}`);
    const all = samples.map((s) => `${x(s.t).toFixed(1)} ${y(s.processed).toFixed(1)}`);
    const [from, to] = [x(samples[0].t).toFixed(1), x(samples.at(-1).t).toFixed(1)];
    this.done.setAttribute("d", `M${from} ${TOP.to}L${good.join("L")}L${to} ${TOP.to}Z`);
    this.bad.setAttribute("d", samples.at(-1).failed ? `M${all.join("L")}L${[...good].reverse().join("L")}Z` : "");
    this.edge.setAttribute("d", `M${all.join("L")}`);
  }

  #throughput(samples, x, start, span) {
    const seconds = span / 1000;
    // Where items are slow, few wide bars: of single items a rate is no rate.
    const most = Math.min(BARS, Math.max(6, (samples.at(-1).processed - samples[0].processed) / 3));
    const step = 1000 * (STEPS.find((each) => seconds / each <= most) ?? Math.ceil(seconds / most / 86400) * 86400);
    this.#bars = [];
    let cursor = 0;
    const at = (t) => {
      while (cursor < samples.length - 2 && samples[cursor + 1].t < t) cursor += 1;
      const [a, b] = [samples[cursor], samples[cursor + 1]];
      const part = Math.min(1, Math.max(0, (t - a.t) / (b.t - a.t || 1)));
      return a.processed + part * (b.processed - a.processed);
    };
    let before = samples[0].processed;
    for (let t = start; t < start + span - 1; t += step) {
      const end = Math.min(t + step, start + span);
      const reached = at(end);
      if (end - t >= step / 2 || !this.#bars.length) this.#bars.push({ t, end, rate: Math.max(0, ((reached - before) * 1000) / (end - t)) });
      before = reached;
    }
    const top = round(Math.max(...this.#bars.map((each) => each.rate)));
    const height = LOW.to - LOW.from;
    const parts = this.#bars.map(({ t, end, rate: r }) => {
      const [a, b] = [x(t) + 0.5, Math.max(x(t) + 1, x(end) - 0.5)];
      const y = LOW.to - (top ? (r / top) * height : 0);
      return `M${a.toFixed(1)} ${LOW.to}V${y.toFixed(1)}H${b.toFixed(1)}V${LOW.to}Z`;
    });
    this.rates.setAttribute("d", parts.join(""));
    setText(this.labels[3], rate(top).replace(".0/", "/"));
  }

  #axes(span, inner) {
    const heights = [TOP.from, (TOP.from + TOP.to) / 2, TOP.to, LOW.from, LOW.to].reverse();
    [4, 3, 2, 1, 0].forEach((n, order) => {
      const y = heights[order];
      const line = this.grid[n];
      for (const [name, value] of Object.entries({ x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y })) setAttribute(line, name, value);
      setAttribute(this.labels[n], "y", y + 4);
    });
    const seconds = span / 1000;
    const most = Math.max(2, Math.floor(inner / 110));
    const step = STEPS.find((each) => seconds / each <= most) ?? Math.ceil(seconds / most / 86400) * 86400;
    const ticks = [];
    for (let t = 0; t <= seconds + 0.001; t += step) ticks.push([LEFT + (t / seconds) * inner, t]);
    while (this.times.children.length > ticks.length) this.times.lastElementChild.remove();
    ticks.forEach(([at, t], n) => {
      const text = this.times.children[n] ?? this.times.appendChild(draw("text", { y: LOW.to + 18 }));
      setAttribute(text, "x", at.toFixed(1));
      setAttribute(text, "text-anchor", at > this.#width - 40 ? "end" : n ? "middle" : "start");
      setText(text, t ? duration(t).replace(/ 00 (s|min)$/, "").replace(".0 s", " s") : "0");
    });
  }

  #point(event) {
    const samples = this.#samples;
    if (samples.length < 2) return;
    const box = this.svg.getBoundingClientRect();
    const inner = this.#width - LEFT - RIGHT;
    const share = Math.min(1, Math.max(0, (event.clientX - box.left - LEFT) / inner));
    const t = samples[0].t + share * (samples.at(-1).t - samples[0].t);
    this.pointing = true;
    setAttribute(this.cursor, "visibility", "visible");
    setAttribute(this.cursor, "x1", LEFT + share * inner);
    setAttribute(this.cursor, "x2", LEFT + share * inner);
    this.#tell(samples.findLast((each) => each.t <= t) ?? samples[0], t);
  }

  #leave() {
    this.pointing = false;
    setAttribute(this.cursor, "visibility", "hidden");
    if (this.#samples.length) this.#tell(this.#samples.at(-1));
  }

  #tell(sample, t = sample.t) {
    const during = this.#bars.find((each) => t >= each.t && t <= each.end) ?? this.#bars.at(-1);
    const parts = [moment(t), percent(sample.processed, this.#total), during && (rate(during.rate) || "0/s"), sample.failed ? `${count(sample.failed)} failed` : ""];
    setText(this.readout, parts.filter(Boolean).join("  ·  "));
  }
}

/** The next of 1, 2, 5, 10, 20, 50, … */
function round(number) {
  if (number <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].find((each) => each * power >= number * 0.999) * power;
}
