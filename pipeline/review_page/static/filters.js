/**
 * The filters beside the grid: order, status, reviewer, score and label.
 *
 * @typedef {Record<string, string>} Query parameters of `/api/images`
 */

import { byId, element, setText } from "./dom.js";
import { DESCENDING_SORTS, SORT_WORDS, STATUS_WORDS, count } from "./words.js";

const TYPING_MS = 300;
const FIELDS = { status: "status", reviewer: "reviewer", min_score: "min-score", max_score: "max-score" };

/** Shows a query in the form, and tells of each change. */
export class Filters {
  /** @type {Query} */
  query = {};
  #labels = [];
  #timer = 0;

  /** @param {{onChange: (query: Query) => void}} of */
  constructor({ onChange }) {
    this.onChange = onChange;
    byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
    byId("sort").addEventListener("change", () => {
      const sort = byId("sort").value;
      this.#change({ sort, descending: DESCENDING_SORTS.includes(sort) ? "1" : "" });
    });
    byId("descending").addEventListener("click", () =>
      this.#change({ descending: this.query.descending ? "" : "1" }),
    );
    for (const [name, id] of Object.entries(FIELDS)) {
      const field = byId(id);
      field.addEventListener("input", () => {
        clearTimeout(this.#timer);
        const wait = field.tagName === "SELECT" ? 0 : TYPING_MS;
        this.#timer = setTimeout(() => field.validity.valid && this.#change({ [name]: field.value }), wait);
      });
    }
    byId("label-search").addEventListener("input", () => this.#showLabels());
  }

  /**
   * Fills the form with what a table has.
   *
   * @param {any} table the answer of `/api/table`
   */
  setTable(table) {
    this.#labels = table.labels;
    const option = (words) => (name) => element("option", { value: name }, words[name] ?? name);
    byId("sort").replaceChildren(...table.sorts.map(option(SORT_WORDS)));
    const statuses = Object.keys(STATUS_WORDS).map((name) =>
      element("option", { value: name }, `${STATUS_WORDS[name]} (${count(table.counts[name] ?? 0)})`),
    );
    byId("status").replaceChildren(element("option", { value: "" }, "Any"), ...statuses);
    const names = new Set([...table.reviewers, this.query.reviewer].filter(Boolean));
    byId("reviewer").replaceChildren(element("option", { value: "" }, "Anyone"), ...[...names].map(option({})));
    this.show(this.query);
  }

  /** @param {Query} query */
  show(query) {
    this.query = query;
    const sorts = byId("sort");
    sorts.value = query.sort || sorts.options[0]?.value || "";
    const isDescending = Boolean(query.descending);
    byId("descending").setAttribute("aria-pressed", String(isDescending));
    setText(byId("descending"), isDescending ? "↓" : "↑");
    byId("descending").title = isDescending ? "The largest first" : "The smallest first";
    for (const [name, id] of Object.entries(FIELDS)) {
      if (document.activeElement !== byId(id)) byId(id).value = query[name] ?? "";
    }
    setText(byId("score-legend"), query.label ? `Score of ${query.label}` : "Mean score");
    this.#showLabels();
  }

  #change(changes) {
    const next = { ...this.query, ...changes };
    this.onChange(Object.fromEntries(Object.entries(next).filter(([, value]) => value)));
  }

  #showLabels() {
    const sought = byId("label-search").value.trim().toLowerCase();
    const shown = this.#labels
      .filter(({ name }) => name.toLowerCase().includes(sought))
      .sort((a, b) => b.segments - a.segments || a.id - b.id);
    const all = this.#labelButton({ name: "", words: "All labels", color: null, segments: null });
    byId("label-list").replaceChildren(
      ...(sought ? [] : [all]),
      ...shown.map(({ name, color, segments }) => this.#labelButton({ name, words: name, color, segments })),
    );
  }

  #labelButton({ name, words, color, segments }) {
    const isChosen = (this.query.label ?? "") === name;
    const choose = () => {
      this.#change({ label: isChosen ? "" : name });
      byId("label-list").querySelector('[aria-pressed="true"]')?.focus();
    };
    const swatch = element("span.swatch");
    if (color) swatch.style.backgroundColor = `rgb(${color.join(" ")})`;
    const button = element(
      "button.item",
      { type: "button", "aria-pressed": isChosen, onclick: choose },
      color ? swatch : null,
      element("span.item-name", {}, words),
      segments === null ? null : element("span.count", {}, count(segments)),
    );
    return element("li", {}, button);
  }
}
