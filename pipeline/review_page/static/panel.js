/** The panel beside the image: tools, the selected segments, recent labels, the verdict. */

import { byId, element, setText } from "./dom.js";
import { DRAFT_STATE_WORDS, STATUS_WORDS, clock, percent } from "./words.js";

/**
 * Shows which tool is chosen, and what it paints.
 *
 * @param {{tool: string, over: string, radius: number, target: string}} state
 */
export function showTools({ tool, over, radius, target }) {
  for (const button of byId("tools").children) {
    button.setAttribute("aria-pressed", String(button.dataset.does === tool));
  }
  byId("over-void").setAttribute("aria-pressed", String(over === "void"));
  byId("over-all").setAttribute("aria-pressed", String(over === "all"));
  byId("brush-size").value = String(radius);
  setText(byId("brush-size-value"), String(radius));
  setText(byId("target"), target);
}

/**
 * Shows the selected segments and what can be done with them.
 *
 * @param {import("./annotation.js").Segment[]} selected
 * @param {{pixels: number, canUndo: boolean, canRedo: boolean}} of
 */
export function showSelected(selected, { pixels, canUndo, canRedo }) {
  const [first] = selected;
  const title =
    selected.length === 0
      ? "Nothing selected"
      : selected.length === 1
        ? `${first.label} ${first.segment_id}`
        : `${selected.length} segments selected`;
  setText(byId("selected-name"), title);
  setText(byId("selected-facts"), selected.length === 1 ? factsOf(first, pixels) : "");
  const isPossible = {
    relabel: selected.length > 0,
    second: selected.some((segment) => segment.second_label !== null && segment.second_label !== undefined),
    delete: selected.length > 0,
    merge: selected.length > 1,
    split: selected.length === 1,
    fill: selected.length === 1,
    new: true,
    undo: canUndo,
    redo: canRedo,
  };
  for (const button of byId("segment-actions").children) button.disabled = !isPossible[button.dataset.does];
}

/**
 * Shows the labels that the digits give.
 *
 * @param {{name: string, color: number[]}[]} labels
 * @param {(place: number) => void} use
 */
export function showRecent(labels, use) {
  byId("recent").replaceChildren(
    ...labels.map(({ name, color }, place) => {
      const swatch = element("span.swatch");
      swatch.style.backgroundColor = `rgb(${color.join(" ")})`;
      const button = element(
        "button",
        { type: "button", title: name, onclick: () => use(place) },
        element("kbd", {}, String(place + 1)),
        swatch,
        element("span.item-name", {}, name),
      );
      return element("li", {}, button);
    }),
  );
}

/**
 * Shows the verdict and who gave it.
 *
 * @param {import("./session.js").Session} session
 * @param {import("./saver.js").Progress | undefined} progress
 */
export function showState(session, progress) {
  const badge = byId("badge");
  setText(badge, STATUS_WORDS[session.isStale ? "stale" : (session.status ?? "")] ?? "");
  badge.dataset.status = session.isStale ? "stale" : (session.status ?? "");
  setText(byId("comment"), session.comment);
  const state = byId("save-state");
  const isSaving = progress !== undefined && progress.state !== "saved";
  state.dataset.state = isSaving ? progress.state : session.hasChanges ? "draft" : "saved";
  if (isSaving) setText(state, progress.message);
  else if (session.hasChanges) setText(state, DRAFT_STATE_WORDS[session.draftState]);
  else if (session.savedAt) setText(state, `saved at ${clock(session.savedAt)} by ${session.reviewer}`);
  else setText(state, "");
}

/**
 * Shows whether the draft is stored by now, unless the page tells of a save.
 *
 * @param {import("./session.js").Session} session
 */
export function showDraftState(session) {
  const state = byId("save-state");
  if (state.dataset.state === "draft") setText(state, DRAFT_STATE_WORDS[session.draftState]);
}

function factsOf(segment, pixels) {
  const facts = [percent(segment.area / pixels)];
  if (segment.score !== null) facts.push(`score ${segment.score.toFixed(2)}`);
  if (segment.origin === "human") facts.push("changed by a person");
  if (segment.second_label) {
    const score = segment.second_score === null ? "" : ` ${segment.second_score.toFixed(2)}`;
    facts.push(`second best: ${segment.second_label}${score}`);
  }
  return facts.join(" · ");
}
