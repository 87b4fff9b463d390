import assert from "node:assert/strict";
import { test } from "node:test";

import { differences } from "../../../../pipeline/review_page/static/conflict.js";
import { matchingLabels } from "../../../../pipeline/review_page/static/label_picker.js";
import { groupedByLabel } from "../../../../pipeline/review_page/static/legend.js";
import { outlineColour, packed, segmentColour } from "../../../../pipeline/review_page/static/palette.js";
import { clock, percent } from "../../../../pipeline/review_page/static/words.js";

test("labels that begin with what is typed come first, then words that do, then the rest", () => {
  const labels = ["motorboat", "rowing boat", "boat", "boathouse", "sea"].map((name) => ({ name }));
  const names = matchingLabels(labels, " Boat ").map(({ name }) => name);
  assert.deepEqual(names, ["boat", "boathouse", "rowing boat", "motorboat"]);
  assert.equal(matchingLabels(labels, "").length, 5);
});

test("the legend shows labels by their pixels, and segments by theirs", () => {
  const rows = [[1, 0, 10], [2, 1, 50], [3, 0, 30], [4, 1, 5], [5, 2, 70]].map(
    ([segment_id, label_id, area]) => ({ segment_id, label_id, label: `l${label_id}`, area }),
  );
  const groups = groupedByLabel(rows);
  assert.deepEqual(groups.map(({ label, area }) => [label, area]), [["l2", 70], ["l1", 55], ["l0", 40]]);
  assert.deepEqual(groups[2].segments.map((row) => row.segment_id), [3, 1]);
});

test("segments of one label differ in lightness, and outlines from what they enclose", () => {
  const colours = [1, 2, 3, 4].map((id) => segmentColour([92, 160, 235], id).join());
  assert.equal(new Set(colours).size, 4);
  assert.deepEqual(outlineColour([255, 255, 255]), [102, 102, 102]);
  assert.equal(packed([1, 2, 3], 255), 0xff030201);
});

test("of two reviews, those segments differ that the other has not", () => {
  const [a, b, c] = ["a", "b", "c"].map((rle, i) => ({ segment_id: i + 1, label: "sky", rle }));
  assert.deepEqual(differences([a, b], [{ ...a, segment_id: 9 }, c]), [b]);
  assert.deepEqual(differences([a], [{ ...a, label: "sea" }]), [a]);
});

test("a time of today is a clock, another one has its date", () => {
  const now = new Date(2026, 10, 29, 18, 0);
  assert.equal(clock(new Date(2026, 10, 29, 14, 3).toISOString(), now), "14:03");
  assert.equal(clock(new Date(2026, 10, 28, 9, 5).toISOString(), now), "2026-11-28 09:05");
});

test("shares have the digits that count", () => {
  assert.deepEqual([0.371, 0.0224, 0.0035].map(percent), ["37 %", "2.2 %", "0.35 %"]);
});
