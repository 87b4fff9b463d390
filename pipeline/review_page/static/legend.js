/**
 * The list of an image's segments, by label, with counts.
 *
 * @typedef {import("./annotation.js").Segment} Segment
 */

import { byId, element, setText } from "./dom.js";
import { percent } from "./words.js";

/**
 * Returns segments in the order of the legend: labels with more pixels first, and in a label larger
 * segments first.
 *
 * @param {Segment[]} segments
 * @returns {{label: string, labelId: number, area: number, segments: Segment[]}[]}
 */
export function groupedByLabel(segments) {
  const groups = new Map();
  for (const segment of segments) {
    const key = segment.label_id;
    if (!groups.has(key)) groups.set(key, { label: segment.label, labelId: key, area: 0, segments: [] });
    const group = groups.get(key);
    group.area += segment.area;
    group.segments.push(segment);
  }
  const sorted = [...groups.values()].sort((a, b) => b.area - a.area || a.labelId - b.labelId);
  for (const group of sorted) {
    group.segments.sort((a, b) => b.area - a.area || a.segment_id - b.segment_id);
  }
  return sorted;
}

/** Shows the segments as buttons that select them. */
export class Legend {
  /** Ids in the order in which they are shown. @type {number[]} */
  order = [];
  #buttons = new Map();

  /** @param {{select: (id: number, isAdded: boolean) => void, hover: (id: number | null) => void}} of */
  constructor({ select, hover }) {
    this.root = byId("legend");
    this.root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-segment]");
      if (button === null) return;
      select(Number(button.dataset.segment), event.shiftKey || event.ctrlKey || event.metaKey);
    });
    this.root.addEventListener("pointerover", (event) => {
      const button = event.target.closest("[data-segment]");
      hover(button === null ? null : Number(button.dataset.segment));
    });
    this.root.addEventListener("pointerleave", () => hover(null));
  }

  /**
   * @param {Segment[]} segments
   * @param {{pixels: number, colourOf: (segment: Segment) => number[]}} of
   */
  show(segments, { pixels, colourOf }) {
    const focused = document.activeElement?.closest?.("#legend [data-segment]")?.dataset.segment;
    const groups = groupedByLabel(segments);
    this.order = groups.flatMap((group) => group.segments.map((segment) => segment.segment_id));
    this.#buttons.clear();
    this.root.replaceChildren(
      ...groups.map((group) =>
        element(
          "li.group",
          {},
          element(
            "h3",
            {},
            element("span.item-name", {}, group.label),
            element("span.count", {}, `${group.segments.length} · ${percent(group.area / pixels)}`),
          ),
          element("ul.list", {}, ...group.segments.map((segment) => this.#item(segment, { pixels, colourOf }))),
        ),
      ),
    );
    setText(byId("legend-name"), `Segments (${segments.length})`);
    if (focused !== undefined) this.#buttons.get(Number(focused))?.focus({ preventScroll: true });
  }

  /** @param {number[]} ids that are selected */
  setSelected(ids) {
    for (const [id, button] of this.#buttons) button.setAttribute("aria-pressed", String(ids.includes(id)));
    this.#buttons.get(ids[ids.length - 1])?.scrollIntoView({ block: "nearest" });
  }

  #item(segment, { pixels, colourOf }) {
    const swatch = element("span.swatch");
    swatch.style.backgroundColor = `rgb(${colourOf(segment).join(" ")})`;
    const facts = [
      segment.score === null ? "by a person" : segment.score.toFixed(2),
      percent(segment.area / pixels),
    ];
    const button = element(
      "button.item",
      { type: "button", "aria-pressed": "false", "data-segment": segment.segment_id },
      swatch,
      element("span.item-name", {}, `${segment.label} ${segment.segment_id}`),
      element("span.count", {}, facts.join(" · ")),
    );
    this.#buttons.set(segment.segment_id, button);
    return element("li", {}, button);
  }
}
