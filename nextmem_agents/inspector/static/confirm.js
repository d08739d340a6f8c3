// A dialog that does nothing until the right word was typed.

import { $, h } from "./dom.js";

export function confirmTyped({ title, text, word, action, run }) {
  const dialog = $("dialog");
  const input = h("input", { id: "confirm-word", autocomplete: "off", spellcheck: "false", autocapitalize: "off" });
  const yes = h("button", { class: "danger", disabled: true }, action);
  const no = h("button", {}, "Cancel");
  const why = h("p", { class: "error", role: "alert" });
  const close = () => dialog.close();
  const go = async () => {
    if (input.value !== word || dialog.dataset.busy) return;
    dialog.dataset.busy = "1";
    yes.disabled = true;
    yes.textContent = "Working …";
    try {
      const done = await run(word);
      dialog.close();
      done?.();
    } catch (error) {
      why.textContent = error.message;
      yes.textContent = action;
      yes.disabled = false;
    } finally {
      delete dialog.dataset.busy;
    }
  };
  input.addEventListener("input", () => (yes.disabled = input.value !== word));
  input.addEventListener("keydown", (event) => event.key === "Enter" && go());
  yes.addEventListener("click", go);
  no.addEventListener("click", close);
  dialog.replaceChildren(
    h("h2", { id: "dialog-title" }, title),
    h("p", {}, text),
    h("label", { for: "confirm-word" }, "Type ", h("code", {}, word), " to confirm"),
    input,
    why,
    h("div", { class: "buttons" }, no, yes),
  );
  dialog.showModal();
  input.focus();
}

export function tell(title, ...content) {
  const dialog = $("dialog");
  const close = h("button", { class: "primary", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(h("h2", { id: "dialog-title" }, title), ...content, h("div", { class: "buttons" }, close));
  dialog.showModal();
  close.focus();
}
