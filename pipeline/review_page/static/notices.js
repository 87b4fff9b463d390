/** Short messages: spoken by a screen reader, or shown until they are closed. */

import { byId, element, setText } from "./dom.js";

/**
 * Lets a screen reader speak.
 *
 * @param {string} text
 */
export function say(text) {
  setText(byId("said"), text);
}

/**
 * Shows a notice in place of an earlier one of the same name.
 *
 * @param {string} name
 * @param {string} text
 * @param {{does: string, run: () => void} | null} action a button beside it
 */
export function notify(name, text, action = null) {
  dismiss(name);
  const close = element("button", { type: "button", "aria-label": "Close", onclick: () => dismiss(name) }, "×");
  const notice = element(
    "div.notice",
    { "data-name": name, role: "alert" },
    element("span", {}, text),
    action && element("button", { type: "button", onclick: action.run }, action.does),
    close,
  );
  byId("notices").append(notice);
}

/**
 * Takes a notice away.
 *
 * @param {string} name
 */
export function dismiss(name) {
  for (const notice of byId("notices").children) if (notice.dataset.name === name) notice.remove();
}
