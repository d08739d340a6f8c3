// A list of any length: only the rows in sight are elements, pages come when the end comes near, and texts when their
// rows are seen. A listbox for the keyboard and for screen readers.

import { get } from "./api.js";
import { h, short, when } from "./dom.js";

const AROUND = 6;
const TEXTS = 16;
const HEIGHT = 92;
const HEIGHT_WITH_SCORE = 124;

export class List {
  // load(after) gives {rows, more}; open(row) is called for the chosen one; failed(error) for what goes wrong.
  constructor(box, { open, failed, changed }) {
    this.box = box;
    this.open = open;
    this.failed = failed;
    this.changed = changed;
    this.inner = h("div", { class: "spacer", role: "presentation" });
    box.append(this.inner);
    this.run = 0;
    this.clear();
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("focus", () => {
      if (this.active < 0 && this.rows.length) this.activate(0);
    });
    new ResizeObserver(() => this.draw()).observe(box);
  }

  clear() {
    this.rows = [];
    this.more = false;
    this.loading = false;
    this.active = -1;
    this.shown = new Map();
    this.asked = new Set();
    this.inner.replaceChildren();
    this.inner.style.height = "0";
    this.box.removeAttribute("aria-activedescendant");
    this.box.scrollTop = 0;
  }

  async show(scope, load, scored = false) {
    this.run += 1;
    const run = this.run;
    this.clear();
    this.scope = scope;
    this.load = load;
    this.height = scored ? HEIGHT_WITH_SCORE : HEIGHT;
    this.box.setAttribute("aria-busy", "true");
    try {
      await this.page(run);
    } finally {
      if (run === this.run) this.box.removeAttribute("aria-busy");
    }
  }

  async page(run) {
    if (this.loading) return;
    this.loading = true;
    try {
      const { rows, more } = await this.load(this.rows.at(-1)?.id ?? null);
      if (run !== this.run) return;
      this.rows.push(...rows);
      this.more = more;
      this.inner.style.height = `${this.rows.length * this.height}px`;
      this.changed(this.rows.length, more);
    } catch (error) {
      if (run === this.run) {
        this.more = false;
        this.failed(error);
      }
    } finally {
      if (run === this.run) {
        this.loading = false;
        this.draw();
      }
    }
  }

  draw() {
    const begin = Math.max(0, Math.floor(this.box.scrollTop / this.height) - AROUND);
    const end = Math.min(this.rows.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + AROUND);
    for (const [i, element] of this.shown) {
      if (i < begin || i >= end) {
        element.remove();
        this.shown.delete(i);
      }
    }
    for (let i = begin; i < end; i += 1) {
      if (!this.shown.has(i)) {
        const element = this.element(i);
        this.shown.set(i, element);
        this.inner.append(element);
      }
    }
    if (this.more && !this.loading && end > this.rows.length - 40) this.page(this.run);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.texts(begin, end), 50);
  }

  element(i) {
    const row = this.rows[i];
    const time = row.occurred_at ?? row.created_at;
    return h(
      "div",
      {
        id: `row-${i}`,
        class: `row${i === this.active ? " active" : ""}`,
        role: "option",
        "aria-selected": row.id === this.selected ? "true" : "false",
        "aria-posinset": i + 1,
        "aria-setsize": this.more ? -1 : this.rows.length,
        style: { transform: `translateY(${i * this.height}px)`, height: `${this.height}px` },
        onclick: () => {
          this.activate(i);
          this.choose(i);
        },
      },
      h(
        "div",
        { class: "meta" },
        row.role && h("b", {}, row.role),
        row.session && h("span", { class: "session" }, row.session),
        when(time),
        h("code", {}, short(row.id)),
      ),
      row.text === undefined
        ? h("div", { class: "words waiting" }, h("span", { class: "vh" }, "Decoding"), h("i"), h("i"))
        : row.text === null
          ? h("div", { class: "words damaged" }, row.error ?? "Not there any more")
          : h("div", { class: "words", dir: "auto" }, row.text),
      row.parts && scoreBar(row),
    );
  }

  redraw(i) {
    if (!this.shown.has(i)) return;
    const element = this.element(i);
    this.shown.get(i).replaceWith(element);
    this.shown.set(i, element);
  }

  async texts(begin, end) {
    const wanted = [];
    // The list may have become another since this was called for.
    const last = Math.min(end, this.rows.length);
    for (let i = begin; i < last && wanted.length < TEXTS; i += 1) {
      if (this.rows[i].text === undefined && !this.asked.has(i)) wanted.push(i);
    }
    if (!wanted.length) return;
    const run = this.run;
    wanted.forEach((i) => this.asked.add(i));
    let found;
    try {
      found = new Map((await get("texts", { scope: this.scope, id: wanted.map((i) => this.rows[i].id) })).map((t) => [t.id, t]));
    } catch (error) {
      if (run === this.run) this.failed(error);
      return;
    }
    if (run !== this.run) return;
    for (const i of wanted) {
      const text = found.get(this.rows[i].id);
      Object.assign(this.rows[i], { text: text?.text ?? null, error: text?.error });
      this.redraw(i);
    }
    this.draw();
  }

  activate(i) {
    const before = this.active;
    this.active = i;
    const top = i * this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    const most = top + this.height - this.box.clientHeight;
    if (most > this.box.scrollTop) this.box.scrollTop = most;
    this.draw();
    this.shown.get(before)?.classList.remove("active");
    this.shown.get(i)?.classList.add("active");
    this.box.setAttribute("aria-activedescendant", `row-${i}`);
  }

  choose(i) {
    this.select(this.rows[i].id);
    this.open(this.rows[i]);
  }

  select(id) {
    this.selected = id;
    for (const [i, element] of this.shown) {
      element.setAttribute("aria-selected", this.rows[i].id === id ? "true" : "false");
    }
  }

  key(event) {
    const last = this.rows.length - 1;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const to = {
      ArrowDown: this.active + 1, ArrowUp: this.active - 1, Home: 0, End: last,
      PageDown: this.active + page, PageUp: this.active - page,
    }[event.key];
    if (last < 0) return;
    if (to !== undefined) {
      this.activate(Math.min(last, Math.max(0, to)));
    } else if ((event.key === "Enter" || event.key === " ") && this.active >= 0) {
      this.choose(this.active);
    } else return;
    event.preventDefault();
  }
}

const KNOWN = ["lexical", "context", "around", "session", "speaker", "time", "latent", "linked"];

export function kind(part) {
  return KNOWN.includes(part.name) ? part.name : "other";
}

function scoreBar(row) {
  const told = row.parts.filter((part) => part.contribution > 0.0005).sort((a, b) => b.contribution - a.contribution);
  return h(
    "div",
    { class: "score" },
    h("b", { class: "total" }, row.score.toFixed(3)),
    h(
      "span",
      { class: "track", "aria-hidden": "true" },
      row.parts.map((part) => h("i", { class: `part ${kind(part)}`, style: { width: `${100 * Math.max(0, part.contribution)}%` } })),
    ),
    h("span", { class: "parts" }, told.map((part) => h("span", { class: `key ${kind(part)}` }, `${part.name} ${part.contribution.toFixed(2)}`))),
  );
}
