/**
 * Boxes of pixels.
 *
 * @typedef {import("./rle.js").Box} Box
 */

/**
 * Returns the smallest box around two boxes.
 *
 * @param {Box} a
 * @param {Box} b
 * @returns {Box}
 */
export function union(a, b) {
  const x = Math.min(a.x, b.x);
  const y = Math.min(a.y, b.y);
  return {
    x,
    y,
    width: Math.max(a.x + a.width, b.x + b.width) - x,
    height: Math.max(a.y + a.height, b.y + b.height) - y,
  };
}

/**
 * Returns the part of a box that lies in an image, on whole pixels; width or height may be 0.
 *
 * @param {Box} box
 * @param {{width: number, height: number}} image
 * @returns {Box}
 */
export function clip(box, image) {
  const x = Math.min(Math.max(Math.floor(box.x), 0), image.width);
  const y = Math.min(Math.max(Math.floor(box.y), 0), image.height);
  const right = Math.min(Math.max(Math.ceil(box.x + box.width), x), image.width);
  const bottom = Math.min(Math.max(Math.ceil(box.y + box.height), y), image.height);
  return { x, y, width: right - x, height: bottom - y };
}

/**
 * Returns the smallest box around points.
 *
 * @param {{x: number, y: number}[]} points
 * @returns {Box}
 */
export function around(points) {
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  const [x, y] = [Math.min(...xs), Math.min(...ys)];
  return { x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y };
}
