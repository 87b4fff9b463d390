import assert from "node:assert/strict";
import { test } from "node:test";

import { Annotation } from "../../../../pipeline/review_page/static/annotation.js";
import { encodeSegment } from "../../../../pipeline/review_page/static/rle.js";
import { brushSpans, polygonSpans } from "../../../../pipeline/review_page/static/shapes.js";
import { LABELS, imageOf, textOf } from "./small_images.mjs";

const PARTS = "1100 1101 0001 2220";
const RING = "11110 10010 12010 11110";

function encodeAll(annotation) {
  for (const segment of annotation.unencoded) {
    const { width, height, ids } = annotation.map;
    const box = { x: segment.bbox_x, y: segment.bbox_y, width: segment.bbox_w, height: segment.bbox_h };
    const encoded = encodeSegment(ids, { width, height, id: segment.segment_id, box });
    annotation.putEncoded(segment, encoded);
  }
}

/** Draws the same map anew and compares all that is known of its segments. */
function assertSound(annotation) {
  encodeAll(annotation);
  const { ids, width, height } = annotation.map;
  const there = new Set(ids);
  there.delete(0);
  assert.deepEqual(annotation.rows.map((row) => row.segment_id), [...there].sort((a, b) => a - b));
  for (const row of annotation.rows) {
    const whole = { x: 0, y: 0, width, height };
    const { rle, area, box } = encodeSegment(ids, { width, height, id: row.segment_id, box: whole });
    assert.deepEqual([row.rle, row.area], [rle, area]);
    assert.deepEqual([row.bbox_x, row.bbox_y, row.bbox_w, row.bbox_h], [box.x, box.y, box.width, box.height]);
  }
}

function stroke(annotation, options, spans) {
  annotation.beginStroke(options);
  annotation.paint(spans);
  return annotation.endStroke();
}

test("without a change the rows are those it came from", () => {
  const image = imageOf(PARTS);
  assert.deepEqual(new Annotation(image).rows, image.segments);
});

test("a label that was given has no score of the model, and its pixels stay", () => {
  const annotation = new Annotation(imageOf(PARTS));
  const { operation } = annotation.relabel([1], LABELS[4]);
  assert.deepEqual(operation, {
    kind: "relabel", segment_ids: [1], label_from: "road", label_to: "boat", pixels: 6,
  });
  const row = annotation.segments.get(1);
  assert.deepEqual([row.label, row.score, row.origin, row.origin_segment_id], ["boat", null, "human", 1]);
  assert.equal(annotation.unencoded.length, 0);
  assert.equal(annotation.relabel([1], LABELS[4]), null);
});

test("a deleted segment leaves void", () => {
  const annotation = new Annotation(imageOf(PARTS));
  assert.equal(annotation.delete([1]).operation.pixels, 6);
  assert.equal(textOf(annotation.map), "0000 0000 0000 2220");
  assertSound(annotation);
});

test("merged segments have the id and the label of the first", () => {
  const annotation = new Annotation(imageOf(PARTS));
  annotation.merge([2, 1]);
  assert.equal(textOf(annotation.map), "2200 2202 0002 2220");
  assert.equal(annotation.segments.get(2).label, "car");
  assertSound(annotation);
  assert.equal(annotation.merge([2]), null);
});

test("the largest part keeps the id, corners connect", () => {
  const annotation = new Annotation(imageOf(PARTS));
  annotation.split(1);
  assert.equal(textOf(annotation.map), "1100 1103 0003 2220");
  assert.deepEqual([annotation.segments.get(3).label, annotation.segments.get(3).origin], ["road", "human"]);
  assertSound(annotation);
  assert.equal(annotation.split(1), null);
  assert.equal(new Annotation(imageOf("10 01")).split(1), null);
});

test("holes are filled over void only or over all", () => {
  const careful = new Annotation(imageOf(RING));
  careful.fillHoles(1, "void");
  assert.equal(textOf(careful.map), "11110 11110 12110 11110");
  assertSound(careful);
  const bold = new Annotation(imageOf(RING));
  bold.fillHoles(1, "all");
  assert.equal(textOf(bold.map), "11110 11110 11110 11110");
  assertSound(bold);
});

test("a brush paints discs along its way, over void only or over all", () => {
  const spans = brushSpans({ x: 0.5, y: 2.5 }, { x: 3.5, y: 2.5 }, { radius: 0.6, width: 4, height: 4 });
  const careful = new Annotation(imageOf(PARTS));
  stroke(careful, { id: 2, kind: "draw", over: "void" }, spans);
  assert.equal(textOf(careful.map), "1100 1101 2221 2220");
  assertSound(careful);
  const bold = new Annotation(imageOf(PARTS));
  stroke(bold, { id: 2, kind: "draw", over: "all" }, spans);
  assert.equal(textOf(bold.map), "1100 1101 2222 2220");
  assertSound(bold);
});

test("a new segment is drawn with a label", () => {
  const annotation = new Annotation(imageOf(PARTS));
  const id = annotation.freeId;
  const square = [{ x: 2, y: 0 }, { x: 4, y: 0 }, { x: 4, y: 3 }, { x: 2, y: 3 }];
  const step = stroke(
    annotation, { id, kind: "draw", over: "void", label: LABELS[3] }, polygonSpans(square, annotation.map),
  );
  assert.equal(textOf(annotation.map), "1133 1131 0031 2220");
  assert.deepEqual(step.operation, {
    kind: "draw", segment_ids: [3], label_from: null, label_to: "tree", pixels: 4,
  });
  const row = annotation.segments.get(id);
  assert.deepEqual([row.origin, row.origin_segment_id, row.score], ["human", null, null]);
  assertSound(annotation);
});

test("an eraser may be kept to one segment", () => {
  const annotation = new Annotation(imageOf(PARTS));
  const all = Array.from({ length: 4 }, (_, y) => ({ y, from: 0, to: 4 }));
  stroke(annotation, { id: 0, kind: "erase", over: "all", only: 2 }, all);
  assert.equal(textOf(annotation.map), "1100 1101 0001 0000");
  assertSound(annotation);
});

test("a stroke without a changed pixel is no step", () => {
  const annotation = new Annotation(imageOf(PARTS));
  assert.equal(stroke(annotation, { id: 1, kind: "draw", over: "all" }, [{ y: 0, from: 0, to: 2 }]), null);
  assert.equal(annotation.steps.length, 0);
});

test("any order of steps is undone to the rows it came from, and redone to the same map", () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = generator(seed);
    const image = drawnImage(random);
    const annotation = new Annotation(image);
    const maps = [textOf(annotation.map)];
    for (let i = 0; i < 12; i++) {
      if (randomStep(annotation, random)) {
        assertSound(annotation);
        maps.push(textOf(annotation.map));
      }
    }
    for (let i = maps.length - 2; i >= 0; i--) {
      annotation.undo();
      assert.equal(textOf(annotation.map), maps[i]);
    }
    assert.equal(annotation.undo(), null);
    assert.deepEqual(annotation.rows, image.segments);
    for (const map of maps.slice(1)) {
      annotation.redo();
      assert.equal(textOf(annotation.map), map);
      assertSound(annotation);
    }
    assert.equal(annotation.redo(), null);
  }
});

test("a draft that is replayed gives the same state, with what was undone", () => {
  const random = generator(7);
  const image = drawnImage(random);
  const annotation = new Annotation(image);
  while (annotation.steps.length < 8) randomStep(annotation, random);
  annotation.undo();
  annotation.undo();
  const again = new Annotation(image);
  again.replay(structuredClone(annotation.steps), annotation.done);
  assert.equal(textOf(again.map), textOf(annotation.map));
  assertSound(again);
  assertSound(annotation);
  assert.deepEqual(again.rows, annotation.rows);
  assert.equal(again.freeId, annotation.freeId);
  annotation.redo();
  again.redo();
  assert.equal(textOf(again.map), textOf(annotation.map));
});

test("a step over a large image is kept small", () => {
  const [width, height] = [4000, 3000];
  const rle = encodeSegment(new Uint16Array(width * height).fill(1), {
    width, height, id: 1, box: { x: 0, y: 0, width, height },
  }).rle;
  const [segment] = imageOf("1").segments;
  const annotation = new Annotation({
    width, height, segments: [{ ...segment, rle, area: width * height, bbox_w: width, bbox_h: height }],
  });
  const { tiles } = annotation.delete([1]);
  const bytes = tiles.reduce((sum, { before, after }) => sum + before.byteLength + after.byteLength, 0);
  assert.ok(bytes < 50_000, `${bytes} bytes`);
});

function generator(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function drawnImage(random) {
  const [width, height] = [1 + random(150), 1 + random(100)];
  const cells = Array.from({ length: 400 }, () => random(5));
  const rows = Array.from({ length: height }, (_, y) =>
    Array.from({ length: width }, (_, x) => cells[(y >> 3) * 19 + (x >> 3)]).join(""),
  );
  return imageOf(rows.join(" "));
}

function randomStep(annotation, random) {
  const ids = [...annotation.segments.keys()];
  const { width, height } = annotation.map;
  const point = () => ({ x: random(width * 10) / 10, y: random(height * 10) / 10 });
  const over = ["void", "all"][random(2)];
  const id = ids[random(ids.length)];
  if (id === undefined || random(4) === 0) {
    const spans = polygonSpans([point(), point(), point(), point()], annotation.map);
    return stroke(annotation, { id: annotation.freeId, kind: "draw", over, label: LABELS[random(5)] }, spans);
  }
  switch (random(6)) {
    case 0: return annotation.relabel([id], LABELS[random(5)]);
    case 1: return annotation.delete([id]);
    case 2: return annotation.merge([id, ...ids.filter((other) => other !== id && random(2))]);
    case 3: return annotation.split(id);
    case 4: return annotation.fillHoles(id, over);
    default: {
      const spans = brushSpans(point(), point(), { radius: 1 + random(15), width, height });
      return stroke(annotation, { id: random(2) ? id : 0, kind: "draw", over }, spans);
    }
  }
}
