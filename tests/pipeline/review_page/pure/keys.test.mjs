import assert from "node:assert/strict";
import { test } from "node:test";

import { BINDINGS, actionOf, keyOf, shownKey } from "../../../../pipeline/review_page/static/keys.js";

const plain = { ctrlKey: false, metaKey: false, shiftKey: false, altKey: false };

test("a key is named with its modifiers, a sign by itself", () => {
  assert.equal(keyOf({ ...plain, key: "a" }), "a");
  assert.equal(keyOf({ ...plain, key: "A", shiftKey: true }), "Shift+a");
  assert.equal(keyOf({ ...plain, key: "?", shiftKey: true }), "?");
  assert.equal(keyOf({ ...plain, key: "}", shiftKey: true }), "}");
  assert.equal(keyOf({ ...plain, key: "Z", ctrlKey: true, shiftKey: true }), "Ctrl+Shift+z");
  assert.equal(keyOf({ ...plain, key: "s", metaKey: true }), "Ctrl+s");
  assert.equal(keyOf({ ...plain, key: "ArrowDown", shiftKey: true }), "Shift+ArrowDown");
});

test("no key does two things, and each is told on the page of keys", () => {
  for (const bindings of Object.values(BINDINGS)) {
    const keys = bindings.flatMap((binding) => binding.keys);
    // Enter closes a polygon, else it relabels: one binding.
    assert.equal(new Set(keys).size, keys.length);
    for (const { keys: bound, does, words } of bindings) {
      assert.ok(words.length > 0);
      if (does) for (const key of bound) assert.equal(actionOf(key, bindings), does);
    }
  }
});

test("keys are shown as they stand on a keyboard", () => {
  assert.deepEqual(["Ctrl+Shift+z", "+", "ArrowUp", " "].map(shownKey), ["Ctrl Shift Z", "+", "↑", "Space"]);
});
