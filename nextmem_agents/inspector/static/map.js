// A scope's memories in a plane. The pointer or the arrow keys go from point to point; a click or Enter opens one.

import { get } from "./api.js";
import { color, count, h, percent } from "./dom.js";

const HUES = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7"];

export class Map2D {
  constructor(box, { open, failed }) {
    this.box = box;
    this.open = open;
    this.failed = failed;
    this.texts = new Map();
    this.by = "session";
    new ResizeObserver(() => this.draw()).observe(box);
  }

  async show(scope) {
    this.scope = scope;
    this.data = null;
    this.current = -1;
    this.texts.clear();
    this.box.replaceChildren(h("p", { class: "muted wait" }, "Reading the latents …"));
    let data;
    try {
      data = await get("map", { scope });
    } catch (error) {
      this.box.replaceChildren();
      this.failed(error);
      return;
    }
    if (scope !== this.scope) return;
    this.data = data;
    this.build();
  }

  forget() {
    this.scope = null;
    this.data = null;
    this.box.replaceChildren();
  }

  build() {
    const { points, total, variance } = this.data;
    if (!points.length) {
      this.box.replaceChildren(h("p", { class: "muted wait" }, "No memory of this scope has latents."));
      return;
    }
    const kinds = ["session", "role"].filter((name) => new Set(points.map((p) => p[name])).size > 1);
    if (!kinds.includes(this.by)) this.by = kinds[0] ?? "session";
    const select = h(
      "select",
      { "aria-label": "Colour by", onchange: (event) => { this.by = event.target.value; this.legend(); this.draw(); } },
      kinds.map((name) => h("option", { value: name, selected: name === this.by }, `colour by ${name}`)),
    );
    this.canvas = h("canvas", {
      tabindex: "0",
      role: "application",
      "aria-roledescription": "map",
      "aria-label": `Map of ${count(points.length, "memory", "memories")}. Arrow keys go from one to the nearest in that direction, Enter opens it.`,
    });
    this.told = h("p", { class: "told", role: "status" }, "Point at a memory, or press an arrow key.");
    this.keys = h("ul", { class: "keys" });
    this.box.replaceChildren(
      h("div", { class: "map-head" },
        h("p", { class: "muted" },
          points.length < total
            ? `Every ${Math.ceil(total / points.length)}th of ${count(total, "memory", "memories")}. `
            : `All ${count(total, "memory", "memories")}. `,
          `Index vectors on their two principal axes, which show ${percent(variance[0] + variance[1], 0)} of their variance.`),
        kinds.length ? select : null),
      this.canvas, this.told, this.keys,
    );
    this.canvas.addEventListener("pointermove", (event) => this.point(this.near(event)));
    this.canvas.addEventListener("click", (event) => {
      const i = this.near(event);
      if (i >= 0) this.open(points[i]);
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.legend();
    this.draw();
  }

  legend() {
    const sizes = new Map();
    for (const point of this.data.points) sizes.set(point[this.by], (sizes.get(point[this.by]) ?? 0) + 1);
    const largest = [...sizes].sort((a, b) => b[1] - a[1]);
    this.hue = new Map(largest.slice(0, HUES.length).map(([name], i) => [name, HUES[i]]));
    this.keys.replaceChildren(
      ...largest.slice(0, HUES.length).map(([name, n], i) =>
        h("li", {}, h("i", { class: `dot d${i + 1}` }), name ?? `no ${this.by}`, h("span", { class: "muted" }, ` ${n}`))),
      largest.length > HUES.length
        ? h("li", {}, h("i", { class: "dot" }), `${largest.length - HUES.length} more`)
        : "",
    );
  }

  // Where the points go: as large as they fit, both axes in one scale, so that distances mean something.
  frame() {
    const xs = this.data.points.map((point) => point.x);
    const ys = this.data.points.map((point) => point.y);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const [wide, tall] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const scale = Math.min((wide - 40) / Math.max(right - left, 1e-6), (tall - 40) / Math.max(high - low, 1e-6));
    return (x, y) => [wide / 2 + (x - (left + right) / 2) * scale, tall / 2 - (y - (low + high) / 2) * scale];
  }

  draw() {
    if (!this.data || !this.canvas || !this.canvas.isConnected || !this.canvas.clientWidth) return;
    const ratio = devicePixelRatio;
    this.canvas.width = this.canvas.clientWidth * ratio;
    this.canvas.height = this.canvas.clientHeight * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.strokeStyle = color("--line");
    context.setLineDash([2, 4]);
    const place = this.frame();
    const [middle, level] = place(0, 0);
    context.beginPath();
    context.moveTo(0, level);
    context.lineTo(this.canvas.clientWidth, level);
    context.moveTo(middle, 0);
    context.lineTo(middle, this.canvas.clientHeight);
    context.stroke();
    context.setLineDash([]);
    const radius = this.data.points.length > 600 ? 3 : 4.5;
    const hues = new Map([...this.hue].map(([name, variable]) => [name, color(variable)]));
    const other = color("--muted");
    this.places = this.data.points.map((point) => place(point.x, point.y));
    this.data.points.forEach((point, i) => {
      context.globalAlpha = 0.72;
      context.fillStyle = hues.get(point[this.by]) ?? other;
      context.beginPath();
      context.arc(...this.places[i], radius, 0, 7);
      context.fill();
    });
    context.globalAlpha = 1;
    const ring = (i, style) => {
      if (i < 0) return;
      context.strokeStyle = style;
      context.lineWidth = 2.5;
      context.beginPath();
      context.arc(...this.places[i], radius + 4, 0, 7);
      context.stroke();
    };
    ring(this.data.points.findIndex((point) => point.id === this.selected), color("--accent"));
    ring(this.current, color("--ink"));
  }

  select(id) {
    this.selected = id;
    this.draw();
  }

  near(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, 24 ** 2];
    this.places.forEach(([a, b], i) => {
      const distance = (a - x) ** 2 + (b - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  point(i) {
    if (i === this.current || i < 0) return;
    this.current = i;
    this.draw();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.read(i), 90);
  }

  async read(i) {
    const { id, session, role } = this.data.points[i];
    const scope = this.scope;
    if (!this.texts.has(id)) {
      try {
        const [found] = await get("texts", { scope, id: [id] });
        this.texts.set(id, found?.text ?? found?.error ?? "Not there any more.");
      } catch (error) {
        this.texts.set(id, error.message);
      }
    }
    if (this.current !== i || this.scope !== scope) return;
    const about = [role, session].filter(Boolean).join(", ");
    this.told.replaceChildren(about ? h("b", {}, `${about}: `) : "", this.texts.get(id));
  }

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter" && this.current >= 0) {
      event.preventDefault();
      this.open(this.data.points[this.current]);
    }
    const way = ways[event.key];
    if (!way) return;
    event.preventDefault();
    const [x, y] = this.places[this.current] ?? [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    let [best, least] = [-1, Infinity];
    this.places.forEach(([a, b], i) => {
      const along = (a - x) * way[0] + (b - y) * way[1];
      const aside = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
      if (i !== this.current && along > 0.5 && along + 2 * aside < least) [best, least] = [i, along + 2 * aside];
    });
    this.point(best);
  }
}
