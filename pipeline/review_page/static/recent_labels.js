/**
 * The labels that were given last, each under a digit.
 *
 * @typedef {import("./label_picker.js").Label} Label
 */

const MOST = 9;

/** Keeps the labels that were used last, over visits too. */
export class RecentLabels {
  /** Labels by digit, 1 first. They keep their digits; a new one takes that of the longest unused. @type {Label[]} */
  labels = [];
  #used = /** @type {string[]} */ ([]);

  /** @param {{table: string, labels: (Label & {segments: number})[]}} table */
  constructor({ table, labels }) {
    this.key = `recent labels of ${table}`;
    const byName = new Map(labels.map((label) => [label.name, label]));
    const stored = stringsOf(localStorage.getItem(this.key));
    const frequent = [...labels].sort((a, b) => b.segments - a.segments).map(({ name }) => name);
    const names = [...new Set([...stored, ...frequent])].filter((name) => byName.has(name)).slice(0, MOST);
    this.labels = names.map((name) => byName.get(name));
    this.#used = [...names].reverse();
  }

  /**
   * Notes that a label was given.
   *
   * @param {Label} label
   */
  use(label) {
    const place = this.labels.findIndex(({ name }) => name === label.name);
    if (place < 0 && this.labels.length < MOST) this.labels.push(label);
    else if (place < 0) {
      const oldest = this.#used.find((name) => this.labels.some((each) => each.name === name));
      this.labels[this.labels.findIndex(({ name }) => name === oldest)] = label;
    }
    this.#used = [...this.#used.filter((name) => name !== label.name), label.name];
    localStorage.setItem(this.key, JSON.stringify(this.labels.map(({ name }) => name)));
  }

  /**
   * Returns labels with the recent ones first, the last used at the top.
   *
   * @param {Label[]} labels
   * @returns {Label[]}
   */
  first(labels) {
    const rank = (label) => this.#used.lastIndexOf(label.name);
    return [...labels].sort((a, b) => rank(b) - rank(a));
  }
}

function stringsOf(text) {
  try {
    const value = JSON.parse(text ?? "[]");
    return Array.isArray(value) ? value.filter((each) => typeof each === "string") : [];
  } catch {
    return [];
  }
}
