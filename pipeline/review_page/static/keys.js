/**
 * The keys of the page: what each does, for the dispatcher and for the page of keys.
 *
 * @typedef {{keys: string[], does: string, words: string, onlySaving?: boolean}} Binding
 */

/** @type {{grid: Binding[], image: Binding[]}} */
export const BINDINGS = {
  grid: [
    { keys: ["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"], does: "", words: "Move between images" },
    { keys: ["Enter"], does: "", words: "Open the image" },
    { keys: ["Home", "End", "PageUp", "PageDown"], does: "", words: "First, last, a page up, a page down" },
    { keys: ["h"], does: "grid-overlay", words: "Show or hide segments" },
    { keys: ["/"], does: "find-label", words: "Find a label" },
    { keys: ["?"], does: "keys", words: "This page" },
  ],
  image: [
    { keys: ["a"], does: "accept", words: "Accept and go on", onlySaving: true },
    { keys: ["x"], does: "unusable", words: "Reject as unusable and go on", onlySaving: true },
    { keys: ["f"], does: "flag", words: "Flag with a comment and go on", onlySaving: true },
    { keys: ["Ctrl+s"], does: "save", words: "Save and stay", onlySaving: true },
    { keys: ["n", "PageDown"], does: "next", words: "Next image" },
    { keys: ["Shift+n"], does: "next-unreviewed", words: "Next image that nobody has reviewed" },
    { keys: ["p", "PageUp"], does: "back", words: "Image before" },
    { keys: ["Escape"], does: "escape", words: "Leave the polygon, the tool, the selection, the image" },
    { keys: ["ArrowDown", "ArrowUp"], does: "", words: "Next or previous segment; with a tool, move its pointer" },
    { keys: ["Shift+ArrowDown", "Shift+ArrowUp"], does: "", words: "Add the next or previous segment" },
    { keys: ["r", "Enter"], does: "relabel", words: "Relabel: type to search", onlySaving: true },
    { keys: ["1", "9"], does: "", words: "Relabel with a recent label", onlySaving: true },
    { keys: ["t"], does: "second", words: "Take the second-best label", onlySaving: true },
    { keys: ["Delete", "Backspace"], does: "delete", words: "Delete: its pixels become void", onlySaving: true },
    { keys: ["m"], does: "merge", words: "Merge the selected into the first", onlySaving: true },
    { keys: ["s"], does: "split", words: "Split into connected parts", onlySaving: true },
    { keys: ["i"], does: "fill", words: "Fill holes", onlySaving: true },
    { keys: ["w"], does: "new", words: "New segment: choose a label, then paint", onlySaving: true },
    { keys: ["v"], does: "select", words: "Select and move" },
    { keys: ["b"], does: "brush", words: "Brush", onlySaving: true },
    { keys: ["e"], does: "eraser", words: "Eraser", onlySaving: true },
    { keys: ["g"], does: "polygon", words: "Polygon: Enter closes it", onlySaving: true },
    { keys: ["0"], does: "void", words: "Paint void, or the segment again", onlySaving: true },
    { keys: ["c"], does: "over", words: "Paint over void only, or over everything", onlySaving: true },
    { keys: ["[", "]"], does: "brush-size", words: "Smaller or larger brush", onlySaving: true },
    { keys: [" "], does: "pen", words: "With a tool: pen down or up, or a corner", onlySaving: true },
    { keys: ["Ctrl+z", "u"], does: "undo", words: "Undo", onlySaving: true },
    { keys: ["Ctrl+Shift+z", "Ctrl+y", "y"], does: "redo", words: "Redo", onlySaving: true },
    { keys: ["h"], does: "hide", words: "Hide segments while held" },
    { keys: ["o"], does: "outlines", words: "Outlines on or off" },
    { keys: ["{", "}"], does: "opacity", words: "Less or more opaque" },
    { keys: ["+", "=", "-"], does: "zoom", words: "Zoom in or out; the wheel too" },
    { keys: ["z"], does: "fit", words: "Whole image" },
    { keys: ["q"], does: "close-up", words: "Close-up of the selected segment" },
    { keys: ["?"], does: "keys", words: "This page" },
  ],
};

/**
 * Returns a key with its modifiers, as bindings name it: `Ctrl+Shift+z`, `a`, `?`.
 *
 * @param {{key: string, ctrlKey: boolean, metaKey: boolean, shiftKey: boolean, altKey: boolean}} event
 * @returns {string}
 */
export function keyOf({ key, ctrlKey, metaKey, shiftKey, altKey }) {
  const name = key.length === 1 ? key.toLowerCase() : key;
  // A sign such as `?` already tells that Shift is held.
  const tellsShift = key.length === 1 && name === key.toUpperCase();
  const parts = [];
  if (ctrlKey || metaKey) parts.push("Ctrl");
  if (altKey) parts.push("Alt");
  if (shiftKey && !tellsShift) parts.push("Shift");
  return [...parts, name].join("+");
}

/**
 * Returns what a key does, or null.
 *
 * @param {string} key as `keyOf` names it
 * @param {Binding[]} bindings
 * @returns {string | null}
 */
export function actionOf(key, bindings) {
  return bindings.find(({ keys, does }) => does && keys.includes(key))?.does ?? null;
}

const SHOWN = {
  ArrowRight: "→",
  ArrowLeft: "←",
  ArrowUp: "↑",
  ArrowDown: "↓",
  Escape: "Esc",
  " ": "Space",
  PageUp: "Page up",
  PageDown: "Page down",
};

/**
 * Returns the words on a key.
 *
 * @param {string} key
 * @returns {string}
 */
export function shownKey(key) {
  return key
    .split(/\+(?=.)/)
    .map((part) => SHOWN[part] ?? (part.length === 1 ? part.toUpperCase() : part))
    .join(" ");
}
