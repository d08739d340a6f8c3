// The page as a whole: the token, the scopes, and who tells whom.

import { Refused, get, post, setToken, takeToken } from "./api.js";
import { confirmTyped, tell } from "./confirm.js";
import { Detail } from "./detail.js";
import { $, bytes, count, h, number } from "./dom.js";
import { List } from "./list.js";
import { Map2D } from "./map.js";

const HITS = 30;
const state = { scope: null, store: null, view: "list", searched: false };

const failed = (error) => {
  if (error instanceof Refused && error.status === 401) lock(error.message);
  else status(error.message, true);
};

const list = new List($("list"), {
  failed,
  open: (row) => open(row.id, row.parts ? row : null),
  changed: (n, more) => {
    if (state.searched) {
      status(n ? `The ${count(n, "best hit")} of ${number(total())}. Bars: what each signal adds to the score.` : "Nothing was found.");
    } else if ($("filter").value.trim()) {
      status(more ? `The first ${number(n)} that match` : `${count(n, "memory matches", "memories match")}`);
    } else {
      status(more ? `${number(n)} of ${number(total())} listed; scroll for more` : count(n, "memory", "memories"));
    }
  },
});
const map = new Map2D($("map"), { failed, open: (point) => open(point.id) });
const detail = new Detail($("detail"), {
  forgotten: () => {
    setMemory(null);
    refresh().then(() => status("Forgotten."));
  },
  closed: () => {
    setMemory(null);
    detail.empty();
    $("list").focus();
  },
});

function total() {
  return state.store.scopes.find((scope) => scope.name === state.scope)?.count ?? 0;
}

function status(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", bad);
}

function remembered() {
  return new URLSearchParams(location.hash.slice(1));
}

function note(name, value) {
  const values = remembered();
  if (value) values.set(name, value);
  else values.delete(name);
  history.replaceState(null, "", values.size ? `#${values}` : location.pathname);
}

function setMemory(id) {
  note("memory", id);
  $("panes").classList.toggle("reading", Boolean(id));
  list.select(id);
  map.select(id);
}

function open(id, hit = null) {
  setMemory(id);
  detail.show(state.scope, id, hit, matchMedia("(max-width: 820px)").matches);
}

function lock(why) {
  $("frame").hidden = true;
  $("locked").hidden = false;
  $("codec").replaceChildren();
  detail.empty();
  list.clear();
  map.forget();
  $("scopes").replaceChildren();
  $("locked-why").textContent = why;
  $("token").focus();
}

async function loadStore() {
  state.store = await get("store");
  const { codec, sizes } = state.store;
  $("codec").replaceChildren(
    ...[
      ["Codec", codec.name],
      ["Latents", codec.tokens_per_latent ? `1 per ${codec.tokens_per_latent} tokens` : `${codec.fixed_latents} per chunk`],
      ["Width", `${codec.dim} × ${codec.levels} levels`],
      ["Runs on", codec.profile],
      ["Fingerprint", codec.fingerprint.slice(0, 12)],
    ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
  const names = { payloads: "payloads", vectors: "vectors", lexical: "words", records: "SQLite in all", chroma: "Chroma index" };
  $("sizes").replaceChildren(
    ...Object.entries(sizes).map(([name, n]) => h("div", {}, h("dt", {}, names[name] ?? name), h("dd", {}, bytes(n)))),
  );
}

function drawScopes() {
  const wanted = $("scope-filter").value.trim().toLowerCase();
  const { scopes } = state.store;
  $("scope-filter").hidden = scopes.length < 10;
  const found = scopes.filter((scope) => scope.name.toLowerCase().includes(wanted));
  $("scopes").replaceChildren(
    ...found.slice(0, 300).map((scope) =>
      h("li", {},
        h("button", {
          class: "scope", "aria-current": scope.name === state.scope ? "true" : null,
          onclick: () => { setMemory(null); detail.empty(); choose(scope.name); },
        },
        h("span", { class: "name", dir: "auto" }, scope.name),
        scope.count === null ? null : h("span", { class: "n" }, number(scope.count))))),
    found.length > 300 ? h("li", { class: "muted" }, `${number(found.length - 300)} more; find one by name`) : "",
    found.length ? "" : h("li", { class: "muted" }, scopes.length ? "No scope of this name" : "Nothing is remembered yet."),
  );
}

async function choose(name) {
  state.scope = name;
  note("scope", name);
  $("query").value = "";
  $("filter").value = "";
  drawScopes();
  $("browse-title").replaceChildren(h("span", { dir: "auto" }, name ?? "Memories"));
  $("erase")?.remove();
  if (name === null) {
    list.clear();
    map.forget();
    status("");
    return;
  }
  $("browse-title").after(h("button", { id: "erase", class: "quiet-danger", onclick: erase }, "Erase scope …"));
  await load();
}

async function load() {
  const scope = state.scope;
  if (scope === null) return;
  const [query, filter, order] = [$("query").value.trim(), $("filter").value.trim(), $("order").value];
  state.searched = Boolean(query);
  $("order").disabled = state.searched; // hits come best first
  if (state.view === "map" && !query) {
    status("");
    await map.show(scope);
    map.select(remembered().get("memory"));
    return;
  }
  show("list");
  status(query ? "Searching …" : "Reading …");
  const pages = async (after) => {
    if (!query) return get("memories", { scope, after, order, filter });
    const { hits } = await get("search", { scope, query, filter, ranking: $("ranking").value, k: HITS });
    return { rows: hits, more: false };
  };
  await list.show(scope, pages, state.searched);
  list.select(remembered().get("memory"));
}

function show(view) {
  state.view = view;
  $("list").hidden = view !== "list";
  $("map").hidden = view !== "map";
  $("show-list").setAttribute("aria-pressed", view === "list");
  $("show-map").setAttribute("aria-pressed", view === "map");
  $("narrow").hidden = view === "map";
}

async function refresh() {
  await loadStore();
  const names = state.store.scopes.map((scope) => scope.name);
  if (names.includes(state.scope)) {
    drawScopes();
    await load();
  } else {
    await choose(names[0] ?? null);
  }
}

function erase() {
  const scope = state.scope;
  confirmTyped({
    title: "Erase the whole scope?",
    text: `All ${count(total(), "memory", "memories")} go, with their history, and their bytes are removed from the disk. This cannot be undone.`,
    word: scope,
    action: "Erase",
    run: async (confirm) => {
      const receipt = await post("erase", { scope, confirm });
      return () => {
        setMemory(null);
        detail.empty();
        refresh().catch(failed);
        tell(receipt.proven ? "Erased, and proven gone" : "Erased",
          h("p", {}, `${count(receipt.memories, "memory", "memories")}, ${count(receipt.versions, "version")}, ${count(receipt.chunks, "payload")}.`),
          receipt.proven
            ? h("p", {}, `${count(receipt.files, "file")} (${bytes(receipt.bytes_read)}) were read to the end; none of the bytes is left.`)
            : null,
          receipt.key_erased ? h("p", {}, "The scope's key was deleted.") : null,
          receipt.not_proven.length ? h("p", {}, "Not proven:") : null,
          receipt.not_proven.length ? h("ul", {}, receipt.not_proven.map((text) => h("li", {}, text))) : null);
      };
    },
  });
}

async function start() {
  $("locked").hidden = true;
  try {
    await loadStore();
  } catch (error) {
    lock(error.message);
    return;
  }
  $("frame").hidden = false;
  const before = remembered();
  const names = state.store.scopes.map((scope) => scope.name);
  await choose(names.includes(before.get("scope")) ? before.get("scope") : (names[0] ?? null));
  if (before.get("memory") && before.get("scope") === state.scope) open(before.get("memory"));
}

$("unlock").addEventListener("click", () => { setToken($("token").value); $("token").value = ""; start(); });
$("token").addEventListener("keydown", (event) => event.key === "Enter" && $("unlock").click());
$("scope-filter").addEventListener("input", drawScopes);
$("skip").addEventListener("click", (event) => { event.preventDefault(); $("list").focus(); });
for (const form of [$("search"), $("narrow")]) {
  form.addEventListener("submit", (event) => { event.preventDefault(); show("list"); load(); });
}
$("query").addEventListener("search", () => { if (!$("query").value && state.searched) load(); });
for (const id of ["order", "ranking"]) {
  $(id).addEventListener("change", () => { if (id === "order" || $("query").value.trim()) load(); });
}
$("show-list").addEventListener("click", () => { show("list"); load(); });
$("show-map").addEventListener("click", () => { $("query").value = ""; show("map"); load(); });
addEventListener("hashchange", () => { if (takeToken()) start(); });
// Pictures are painted in the scheme's colours.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  map.draw();
  if (detail.data && remembered().get("memory")) detail.version(detail.index);
});

takeToken();
start();
