/**
 * A dialog in which a label is found by typing.
 *
 * @typedef {{id: number, name: string, is_thing: boolean, color: [number, number, number]}} Label
 */

import { byId, element, setText } from "./dom.js";

const MOST_SHOWN = 100;

/**
 * Returns the labels that match what was typed: those that begin with it first, then those with a
 * word that does, then those that hold it.
 *
 * @param {Label[]} labels
 * @param {string} typed
 * @returns {Label[]}
 */
export function matchingLabels(labels, typed) {
  const sought = typed.trim().toLowerCase();
  const rank = ({ name }) => {
    const lower = name.toLowerCase();
    if (lower === sought) return 0;
    if (lower.startsWith(sought)) return 1;
    if (lower.split(/[^\p{L}\p{N}]+/u).some((word) => word.startsWith(sought))) return 2;
    return lower.includes(sought) ? 3 : 4;
  };
  return labels
    .map((label, place) => ({ label, place, rank: rank(label) }))
    .filter(({ rank: found }) => found < 4)
    .sort((a, b) => a.rank - b.rank || a.place - b.place)
    .map(({ label }) => label);
}

/** Asks for a label. */
export class LabelPicker {
  #labels = [];
  #shown = [];
  #active = 0;
  #resolve = null;

  constructor() {
    this.dialog = byId("picker");
    this.input = byId("picker-input");
    this.list = byId("picker-list");
    this.input.addEventListener("input", () => this.#show());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("close", () => this.#end(null));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /**
   * Opens the dialog and waits for a choice.
   *
   * @param {Label[]} labels in the order in which they are offered
   * @param {string} title
   * @returns {Promise<Label | null>} null where it is closed without one
   */
  ask(labels, title) {
    this.#labels = labels;
    setText(byId("picker-title"), title);
    this.input.value = "";
    this.#show();
    this.dialog.showModal();
    this.input.focus();
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  #show() {
    this.#shown = matchingLabels(this.#labels, this.input.value).slice(0, MOST_SHOWN);
    this.list.replaceChildren(
      ...this.#shown.map((label, place) => {
        const swatch = element("span.swatch");
        swatch.style.backgroundColor = `rgb(${label.color.join(" ")})`;
        return element(
          "li.item",
          { role: "option", id: `picker-${place}`, "aria-selected": "false", onclick: () => this.#end(label) },
          swatch,
          element("span.item-name", {}, label.name),
        );
      }),
    );
    this.#activate(0);
  }

  #activate(place) {
    this.list.children[this.#active]?.setAttribute("aria-selected", "false");
    this.#active = Math.min(Math.max(place, 0), this.#shown.length - 1);
    const option = this.list.children[this.#active];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id);
    else this.input.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    if (event.key === "ArrowDown") this.#activate(this.#active + 1);
    else if (event.key === "ArrowUp") this.#activate(this.#active - 1);
    else if (event.key === "Enter") this.#end(this.#shown[this.#active] ?? null);
    else return;
    event.preventDefault();
  }

  #end(label) {
    const resolve = this.#resolve;
    this.#resolve = null;
    if (this.dialog.open) this.dialog.close();
    resolve?.(label);
  }
}
