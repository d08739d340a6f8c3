// One memory: its text, what is kept of it, what its latents hold, what the decoder makes of them alone, its past.

import { get, post } from "./api.js";
import { confirmTyped } from "./confirm.js";
import { bytes, count, h, number, percent, short, when } from "./dom.js";
import { latentTable, sensitivityTable } from "./latents.js";
import { kind } from "./list.js";

export class Detail {
  // forgotten(id) is called when the memory was forgotten; closed() when a narrow screen goes back to the list.
  constructor(box, { forgotten, closed }) {
    this.box = box;
    this.forgotten = forgotten;
    this.closed = closed;
    this.run = 0;
    this.empty();
  }

  empty() {
    this.run += 1;
    this.shown = null;
    this.box.replaceChildren(
      h("div", { class: "nothing" },
        h("div", { class: "sample", "aria-hidden": "true" }, Array.from({ length: 28 }, (_, i) => h("i", { class: `s${(i * 7) % 5}` }))),
        h("p", {}, "Choose a memory to see what its latents hold.")),
    );
  }

  // hit is the search result that was opened, or null.
  async show(scope, id, hit = null, focus = false) {
    this.run += 1;
    const run = this.run;
    this.box.setAttribute("aria-busy", "true");
    let data;
    try {
      data = await get("memory", { scope, id });
    } catch (error) {
      if (run === this.run) {
        this.box.replaceChildren(this.back(), h("p", { class: "error", role: "alert" }, error.message));
        this.box.removeAttribute("aria-busy");
      }
      return;
    }
    if (run !== this.run) return;
    this.data = data;
    this.hit = hit;
    this.version(data.versions.length - 1);
    this.box.removeAttribute("aria-busy");
    if (focus) this.box.focus({ preventScroll: true });
  }

  back() {
    return h("button", { class: "back", onclick: this.closed }, "‹ Memories");
  }

  version(index) {
    this.run += 1;
    this.index = index;
    const version = this.data.versions[index];
    const current = index === this.data.versions.length - 1;
    this.text = h("blockquote", { class: "text", dir: "auto" }, version.text ?? h("span", { class: "error" }, version.error));
    this.chunks = h("div");
    const kept = version.payload_bytes !== undefined;
    this.box.replaceChildren(
      this.back(),
      h("header", { class: "head" },
        h("div", { class: "chips" },
          version.role && h("span", { class: "chip strong" }, version.role),
          version.session && h("span", { class: "chip" }, version.session),
          version.agent && h("span", { class: "chip" }, `agent ${version.agent}`),
          when(version.occurred_at ?? version.created_at),
          !current && h("span", { class: "chip past" }, `version ${index + 1} of ${this.data.versions.length}`)),
        h("code", { class: "id", title: version.id }, version.id)),
      this.text,
      kept ? this.tiles(version) : "",
      this.hit && current ? this.found() : "",
      kept ? this.chunks : "",
      this.provenance(version),
      this.data.versions.length > 1 ? this.history() : "",
      h("section", { class: "danger-zone" },
        h("h3", {}, "Forget"),
        h("p", { class: "muted" }, "Removes this memory with all its versions from every read. To remove its bytes from the disk as well, erase the scope."),
        h("button", { class: "danger", onclick: () => this.forget(version) }, "Forget this memory …")),
    );
    this.box.scrollTop = 0;
    if (kept) this.chunk(version, 0);
  }

  tiles(version) {
    const ratio = version.payload_bytes / version.text_bytes;
    const most = Math.max(version.payload_bytes, version.text_bytes);
    const bar = (name, n) => h("div", { class: `bytes of-${name}` }, h("span", {}, name), h("i", {}, h("b", { style: { width: `${(100 * n) / most}%` } })), h("span", {}, bytes(n)));
    const literal = version.fidelity === null;
    return h("dl", { class: "tiles" },
      h("div", {},
        h("dt", {}, "Recall"),
        h("dd", {}, version.exact
          ? h("span", { class: "good" }, "✓ exact")
          : h("span", { class: "bad" }, version.exact === false ? "✗ not exact" : "✗ damaged")),
        h("dd", { class: "small" }, version.exact ? "proven by its checksum" : "its checksum does not match")),
      h("div", {},
        h("dt", {}, "Fidelity"),
        h("dd", {}, literal ? "–" : percent(version.fidelity)),
        h("dd", { class: "small" }, literal
          ? "kept literally: the decoder could not give this text back"
          : version.n_wrong
            ? `the decoder alone gets ${version.n_wrong} of ${count(version.n_tokens, "token")} wrong`
            : `the decoder alone gets all ${count(version.n_tokens, "token")} right`)),
      h("div", {},
        h("dt", {}, "Latents"),
        h("dd", {}, number(version.n_latents)),
        h("dd", { class: "small" }, `positions in a prompt in place of ${count(version.n_tokens, "token")}`)),
      h("div", {},
        h("dt", {}, "Kept bytes"),
        h("dd", { class: "pair" }, bar("payload", version.payload_bytes), bar("text", version.text_bytes)),
        h("dd", { class: "small" },
          `${ratio.toFixed(1)} times its text${this.data.encrypted ? ", encrypted" : ""}${version.keeps_text ? ", with a copy of the text" : ""}`)));
  }

  // Why a search brought it.
  found() {
    const { score, parts, steps } = this.hit;
    const most = Math.max(...parts.map((part) => Math.abs(part.contribution)), 1e-9);
    const places = steps.map((step) => `${step.place} by ${step.name}${step.note ? ` (${step.note})` : ""}`).join(", ");
    return h("section", {}, h("h3", {}, "Why it was found"),
      h("table", { class: "why" },
        h("caption", { class: "vh" }, "The parts of the score"),
        h("thead", {}, h("tr", {}, ["Signal", "Value", "Weight", "Adds"].map((name) => h("th", { scope: "col" }, name)), h("td", {}))),
        h("tbody", {}, parts.map((part) =>
          h("tr", {},
            h("th", { scope: "row" }, h("span", { class: `key ${kind(part)}` }, part.name)),
            h("td", {}, part.value.toFixed(3)),
            h("td", {}, part.weight.toFixed(3)),
            h("td", {}, part.contribution.toFixed(3)),
            h("td", { class: "adds", "aria-hidden": "true" }, h("i", { class: `part ${kind(part)}`, style: { width: `${(100 * Math.abs(part.contribution)) / most}%` } }))))),
        h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "score"), h("td", {}), h("td", {}), h("td", {}, score.toFixed(3)), h("td", { class: "muted" }, `place ${places}`)))));
  }

  async chunk(version, n) {
    const run = this.run;
    const where = { scope: this.data.scope, id: version.id, version: version.version, chunk: n };
    this.chunks.replaceChildren(h("section", {}, h("h3", {}, "Latents"), h("p", { class: "muted wait" }, "Decoding …")));
    let chunk;
    try {
      chunk = await get("chunk", where);
    } catch (error) {
      if (run === this.run) this.chunks.replaceChildren(h("section", {}, h("p", { class: "error", role: "alert" }, error.message)));
      return;
    }
    if (run !== this.run) return;
    const pager = version.n_chunks > 1
      ? h("div", { class: "pager" },
          h("button", { disabled: n === 0, onclick: () => this.chunk(version, n - 1) }, "‹ Previous"),
          h("span", {}, `chunk ${n + 1} of ${version.n_chunks}`),
          h("button", { disabled: n === version.n_chunks - 1, onclick: () => this.chunk(version, n + 1) }, "Next ›"))
      : "";
    if (chunk.literal) {
      this.chunks.replaceChildren(h("section", {}, h("h3", {}, "Latents"), pager,
        h("p", { class: "muted" }, "This chunk is kept as its own bytes: correcting the decoder would have cost more than the text. It has no latents."),
        version.n_chunks > 1 ? h("blockquote", { class: "text chunk-text", dir: "auto" }, chunk.text) : ""));
      return;
    }
    const highlight = version.n_chunks === 1 ? this.weave(chunk) : () => {};
    this.chunks.replaceChildren(
      h("section", {}, h("h3", {}, "Latents"), pager,
        h("p", { class: "muted" }, `What each latent stands for by its position, and its values of ${chunk.levels} levels.`),
        latentTable(chunk, highlight),
        this.sensitivity(where, chunk)),
      this.reconstruction(chunk),
    );
  }

  // The memory's own text in stretches, one for each latent, that light up with their rows.
  weave(chunk) {
    const spans = chunk.latents.map((latent, i) => h("span", { class: "stretch", "data-latent": i }, chunk.pieces.slice(latent.begin, latent.end).join("")));
    if (chunk.text !== this.data.versions[this.index].text) return () => {};
    this.text.replaceChildren(...spans);
    const highlight = (latent) => {
      for (const element of this.box.querySelectorAll("[data-latent]")) {
        element.classList.toggle("lit", latent !== null && element.dataset.latent === String(latent));
      }
    };
    spans.forEach((span, i) => {
      span.addEventListener("pointerenter", () => highlight(i));
      span.addEventListener("pointerleave", () => highlight(null));
    });
    return highlight;
  }

  sensitivity(where, chunk) {
    const box = h("div", { class: "measure" });
    const button = h("button", {}, "Measure which latent holds which word");
    const about = h("p", { class: "muted" }, "Swaps each word, encodes the text anew and compares the latents. Takes a few seconds.");
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Measuring …";
      try {
        const measured = await get("sensitivity", where);
        if (!measured.words.length) {
          box.replaceChildren(h("p", { class: "muted" }, "There is nothing in this text to swap a word with."));
          return;
        }
        box.replaceChildren(
          h("h4", {}, "Measured"),
          h("p", { class: "muted" },
            `${percent(measured.share_inside, 0)} of all change falls on the latent in whose stretch (framed) the swapped word lies; ` +
            `by chance it would be ${percent(measured.share_by_chance, 0)}. ${count(measured.n_swaps, "swap")}.`),
          sensitivityTable(measured, chunk));
      } catch (error) {
        box.replaceChildren(h("p", { class: "error", role: "alert" }, error.message));
      }
    });
    box.append(button, about);
    return box;
  }

  reconstruction(chunk) {
    const repairs = new Map(chunk.repairs.map((repair) => [repair.position, repair]));
    const clean = chunk.unaided.every((part) => part.same !== undefined);
    const ties = chunk.repairs.filter((repair) => !repair.wrong).length;
    const text = h("blockquote", { class: "text unaided", dir: "auto" },
      chunk.unaided.map((part) =>
        part.same !== undefined
          ? part.same
          : [part.wrong && h("del", {}, h("span", { class: "vh" }, "wrong: "), part.wrong),
             part.right && h("ins", {}, h("span", { class: "vh" }, "should be: "), part.right)]));
    const summary = clean
      ? "On its own the decoder gives this text back word for word."
      : "What the decoder writes on its own. Struck out is what it gets wrong; after it stands what was remembered.";
    const table = chunk.repairs.length
      ? h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Repairs" },
          h("table", { class: "repairs" },
            h("caption", {}, `${count(repairs.size, "repaired token")}${ties ? `, ${ties} of them only to settle a near-tie` : ""}`),
            h("thead", {}, h("tr", {}, ["Token", "In its place", "Decoder alone", "Kept", "Why"].map((name) => h("th", { scope: "col" }, name)))),
            h("tbody", {}, chunk.repairs.map((repair) =>
              h("tr", {},
                h("td", {}, String(repair.position + 1)),
                h("td", { class: "context", dir: "auto" },
                  `…${chunk.pieces.slice(Math.max(0, repair.position - 3), repair.position).join("")}`,
                  h("mark", {}, chunk.pieces[repair.position]),
                  `${chunk.pieces.slice(repair.position + 1, repair.position + 3).join("")}…`),
                h("td", {}, h("code", {}, visible(repair.alone))),
                h("td", {}, h("code", {}, visible(repair.kept))),
                h("td", {}, repair.wrong ? h("span", { class: "bad" }, "wrong") : h("span", { class: "tie" }, "near-tie")))))))
      : h("p", { class: "muted" }, "No token had to be repaired.");
    return h("section", {}, h("h3", {}, "The decoder alone"), h("p", { class: "muted" }, summary), text, table);
  }

  provenance(version) {
    const facts = [
      ["Remembered", when(version.created_at)],
      version.updated_at !== version.created_at && ["This version", when(version.updated_at)],
      version.occurred_at && ["Happened", when(version.occurred_at)],
      ["Holds since", when(version.valid_from)],
      version.valid_to && ["Held until", when(version.valid_to)],
      version.expires_at && ["Expires", when(version.expires_at)],
      version.importance !== null && ["Importance", String(version.importance)],
      version.written_by && ["Written by", version.written_by],
      version.derived_from && ["Derived from", version.derived_from],
      version.supersedes && ["Supersedes", h("code", {}, short(version.supersedes))],
      version.profile && ["Decode profile", version.profile],
      ...version.metadata.map(({ name, value, type }) => [h("code", {}, name), [value, " ", h("span", { class: "muted" }, type)]]),
    ].filter(Boolean);
    return h("section", {}, h("h3", {}, "Provenance and validity"),
      h("dl", { class: "table" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
  }

  history() {
    const versions = this.data.versions;
    return h("section", {}, h("h3", {}, "History"),
      h("ol", { class: "history", reversed: true }, versions.map((version, i) => [version, i]).reverse().map(([version, i]) =>
        h("li", { class: i === this.index ? "here" : null },
          h("div", { class: "meta" },
            h("b", {}, i === versions.length - 1 ? "now" : `version ${i + 1}`), when(version.updated_at),
            version.written_by && h("span", {}, `by ${version.written_by}`)),
          h("p", { dir: "auto" }, version.text ?? version.error),
          i !== this.index && h("button", { onclick: () => this.version(i) }, `Look at version ${i + 1}`)))));
  }

  forget(version) {
    const { scope } = this.data;
    confirmTyped({
      title: "Forget this memory?",
      text: `It leaves every read of ${scope} at once, with ${count(this.data.versions.length, "version")}. This cannot be undone.`,
      word: "forget",
      action: "Forget",
      run: async (confirm) => {
        await post("forget", { scope, id: version.id, confirm });
        this.empty();
        return () => this.forgotten(version.id);
      },
    });
  }
}

function visible(token) {
  return token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(nothing)";
}
