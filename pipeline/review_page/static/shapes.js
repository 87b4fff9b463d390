/**
 * Pixels of a brush's move and of a polygon, as spans of rows.
 *
 * @typedef {import("./rle.js").Box} Box
 * @typedef {{x: number, y: number}} Point
 * @typedef {{y: number, from: number, to: number}} Span pixels of row y from `from` up to, without, `to`
 */

import { around, clip } from "./boxes.js";

/**
 * Returns the spans of pixels whose centres lie within `radius` of the way between two points.
 *
 * @param {Point} start
 * @param {Point} end
 * @param {{radius: number, width: number, height: number}} of the brush and the image
 * @returns {Span[]}
 */
export function brushSpans(start, end, { radius, width, height }) {
  const way = around([start, end]);
  const box = clip(
    { x: way.x - radius, y: way.y - radius, width: way.width + 2 * radius, height: way.height + 2 * radius },
    { width, height },
  );
  const [dx, dy] = [end.x - start.x, end.y - start.y];
  const length2 = dx * dx + dy * dy;
  const isNear = (x, y) => {
    const along = length2 ? ((x - start.x) * dx + (y - start.y) * dy) / length2 : 0;
    const t = Math.min(1, Math.max(0, along));
    const [ox, oy] = [x - start.x - t * dx, y - start.y - t * dy];
    return ox * ox + oy * oy <= radius * radius;
  };
  const spans = [];
  for (let y = box.y; y < box.y + box.height; y++) {
    // What the brush covers is convex: one span a row.
    let from = box.x;
    let to = box.x + box.width;
    while (from < to && !isNear(from + 0.5, y + 0.5)) from += 1;
    while (to > from && !isNear(to - 0.5, y + 0.5)) to -= 1;
    if (from < to) spans.push({ y, from, to });
  }
  return spans;
}

/**
 * Returns the spans of pixels whose centres lie in a polygon, by the even-odd rule.
 *
 * @param {Point[]} points
 * @param {{width: number, height: number}} image
 * @returns {Span[]}
 */
export function polygonSpans(points, image) {
  const box = clip(around(points), image);
  const spans = [];
  for (let y = box.y; y < box.y + box.height; y++) {
    const centre = y + 0.5;
    const crossings = [];
    for (let i = 0; i < points.length; i++) {
      const a = points[i];
      const b = points[(i + 1) % points.length];
      if (a.y <= centre !== b.y <= centre) {
        crossings.push(a.x + ((centre - a.y) / (b.y - a.y)) * (b.x - a.x));
      }
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(0, Math.ceil(crossings[i] - 0.5));
      const to = Math.min(image.width, Math.ceil(crossings[i + 1] - 0.5));
      if (from < to) spans.push({ y, from, to });
    }
  }
  return spans;
}

/**
 * Returns the smallest box around spans, or null where there is none.
 *
 * @param {Span[]} spans
 * @returns {Box | null}
 */
export function boxOfSpans(spans) {
  if (spans.length === 0) return null;
  let [left, right, top, bottom] = [Infinity, 0, Infinity, 0];
  for (const { y, from, to } of spans) {
    left = Math.min(left, from);
    right = Math.max(right, to);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y + 1);
  }
  return { x: left, y: top, width: right - left, height: bottom - top };
}
