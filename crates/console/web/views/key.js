// The question for the API key.

import { h } from "../lib/dom.js";

/** Asks until something is typed. @param problem what was wrong with the last one, or null */
export function askForKey(problem) {
  return new Promise((resolve) => {
    const input = h("input", { id: "api-key", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const form = h("form", { on: {
      submit: (event) => {
        event.preventDefault();
        if (input.value.trim() === "") return;
        dialog.close();
        dialog.remove();
        resolve(input.value.trim());
      },
    } },
      h("h2", { id: "key-title" }, "This server wants an API key"),
      h("p", { class: "soft small" }, "It is kept in this tab until you close it, and sent to this server only."),
      problem ? h("p", { class: "bad small", role: "alert" }, problem) : null,
      h("label", { for: "api-key", class: "hidden" }, "API key"),
      input,
      h("button", { class: "main" }, "Go on"));
    const dialog = h("dialog", { "aria-labelledby": "key-title", on: { cancel: (event) => event.preventDefault() } }, form);
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
}
