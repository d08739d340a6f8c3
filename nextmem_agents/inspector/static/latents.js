// The latents of a chunk: a row for each, with the words that it stands for and its values as a strip of colours.

import { h, rgb } from "./dom.js";

export function decodeValues(chunk) {
  const raw = atob(chunk.values);
  return Int8Array.from(raw, (character) => (character.charCodeAt(0) << 24) >> 24);
}

export function latentTable(chunk, highlight) {
  const values = decodeValues(chunk);
  const body = h("tbody");
  chunk.latents.forEach((latent, i) => {
    const words = chunk.pieces.slice(latent.begin, latent.end).join("");
    const row = values.subarray(i * chunk.dim, (i + 1) * chunk.dim);
    const strip = h("canvas", { class: "strip", width: chunk.dim, height: 1, "aria-hidden": "true" });
    paint(strip, row);
    const told = h("div", { class: "readout", "aria-hidden": "true" });
    const cell = h("td", { class: "strip-cell" }, strip, told);
    strip.addEventListener("pointermove", (event) => {
      const box = strip.getBoundingClientRect();
      const d = Math.min(chunk.dim - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * chunk.dim)));
      told.textContent = `dimension ${d}: ${((row[d] / 127) * 3).toFixed(2)}×`;
    });
    strip.addEventListener("pointerleave", () => (told.textContent = ""));
    body.append(
      h(
        "tr",
        { onpointerenter: () => highlight(i), onpointerleave: () => highlight(null), "data-latent": i },
        h("th", { scope: "row" }, String(i + 1)),
        h("td", { class: "stands-for", dir: "auto" }, words.trim() || h("span", { class: "muted" }, "(white space)")),
        cell,
      ),
    );
  });
  return h(
    "div",
    {},
    h(
      "table",
      { class: "latents" },
      h("caption", { class: "vh" }, "Each latent, the words it stands for by its position, and its values"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "vh" }, "Latent")), h("th", { scope: "col" }, "Words"), h("th", { scope: "col" }, `${chunk.dim} values`))),
      body,
    ),
    h(
      "div",
      { class: "legend", "aria-hidden": "true" },
      h("span", {}, "−3×"),
      h("i", { class: "scale" }),
      h("span", {}, "+3× the usual magnitude of the dimension"),
    ),
  );
}

function paint(canvas, row) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(row.length, 1);
  const low = rgb("--heat-low");
  const middle = rgb("--heat-middle");
  const high = rgb("--heat-high");
  row.forEach((value, d) => {
    const end = value < 0 ? low : high;
    const share = Math.min(1, Math.abs(value) / 127) ** 0.8;
    for (let k = 0; k < 3; k += 1) picture.data[4 * d + k] = middle[k] + (end[k] - middle[k]) * share;
    picture.data[4 * d + 3] = 255;
  });
  context.putImageData(picture, 0, 0);
}

export function sensitivityTable(measured, chunk) {
  const most = Math.max(...measured.words.flatMap((word) => word.change), 1e-9);
  const head = chunk.latents.map((_, j) => h("th", { scope: "col" }, String(j + 1)));
  const rows = measured.words.map((word) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", dir: "auto" }, word.text || "(white space)"),
      word.change.map((change, j) => {
        const { begin, end } = chunk.latents[j];
        const own = word.begin < end && word.end > begin;
        return h(
          "td",
          { class: own ? "own" : null, title: `“${word.text}” changes latent ${j + 1} by ${(100 * change).toFixed(0)}%` },
          h("i", { style: { opacity: (change / most) ** 0.7 }, "aria-hidden": "true" }),
          h("span", { class: "vh" }, `${(100 * change).toFixed(0)}%${own ? ", its own stretch" : ""}`),
        );
      }),
    ),
  );
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Measured sensitivity" },
    h(
      "table",
      { class: "sensitivity" },
      h("caption", { class: "vh" }, "How much each latent changes when a word is swapped"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "swapped word"), head)),
      h("tbody", {}, rows),
    ),
  );
}
