/** Words for what the server names: statuses, orders, times and sizes. */

/** @type {Record<string, string>} */
export const STATUS_WORDS = {
  unreviewed: "Not reviewed",
  accepted: "Accepted",
  corrected: "Corrected",
  unusable: "Unusable",
  flagged: "Flagged",
  stale: "Photograph changed",
};

/** The word for an image with changes that only this browser has. */
export const DRAFT_WORD = "Draft";

/** What the page says of a draft, by its state. */
export const DRAFT_STATE_WORDS = {
  storing: "Draft is being stored …",
  kept: "Draft kept in this browser",
  lost: "Draft not stored",
};

/** @type {Record<string, string>} */
export const SORT_WORDS = {
  queue: "Queue",
  name: "Name",
  mean_score: "Mean score",
  coverage: "Coverage",
  strangeness: "Strangeness",
  disagreement: "Disagreement",
  saved_at: "Time of review",
};

/** Orders that begin with the largest value. */
export const DESCENDING_SORTS = ["strangeness", "disagreement", "saved_at"];

/**
 * Returns a time of today as `14:03`, and of another day with its date.
 *
 * @param {string} time as ISO 8601
 * @param {Date} now
 * @returns {string}
 */
export function clock(time, now = new Date()) {
  const date = new Date(time);
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (date.toDateString() === now.toDateString()) return minutes;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${minutes}`;
}

/**
 * Returns a number with separators between thousands.
 *
 * @param {number} value
 * @returns {string}
 */
export function count(value) {
  return value.toLocaleString("en");
}

/**
 * Returns a share as a percentage with two digits that count.
 *
 * @param {number} share
 * @returns {string}
 */
export function percent(share) {
  const value = 100 * share;
  return `${value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)} %`;
}

function two(value) {
  return String(value).padStart(2, "0");
}
