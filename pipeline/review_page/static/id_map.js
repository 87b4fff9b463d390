/**
 * An image's annotation as one map of ids, row by row; 0 is void.
 *
 * @typedef {import("./rle.js").Box} Box
 * @typedef {import("./shapes.js").Span} Span
 */

import { paintRle } from "./rle.js";

export const VOID = 0;
const LARGEST_ID = 65535;

/** Holds the id of each pixel and writes spans and positions into it. */
export class IdMap {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.ids = new Uint16Array(width * height);
  }

  /**
   * Makes the map of the segments of an image.
   *
   * @param {{width: number, height: number, segments: {segment_id: number, rle: string}[]}} image
   * @returns {IdMap}
   */
  static of({ width, height, segments }) {
    const map = new IdMap(width, height);
    for (const { segment_id: id, rle } of segments) {
      if (id < 1 || id > LARGEST_ID) {
        throw new Error(`segment_id must be in [1, ${LARGEST_ID}] to be shown, got ${id}`);
      }
      paintRle(rle, { ids: map.ids, width, height, id });
    }
    return map;
  }

  /** Returns the id at a point, void outside of the image. */
  at(x, y) {
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return VOID;
    return this.ids[row * this.width + column];
  }

  /**
   * Writes an id into spans, where `mayPaint` allows it for the id that is there.
   *
   * @param {Span[]} spans
   * @param {number} id
   * @param {(there: number) => boolean} mayPaint
   */
  writeSpans(spans, id, mayPaint) {
    for (const { y, from, to } of spans) {
      for (let at = y * this.width + from, end = y * this.width + to; at < end; at++) {
        if (mayPaint(this.ids[at])) this.ids[at] = id;
      }
    }
  }

  /**
   * Writes an id into pixels by their positions, where `mayPaint` allows it.
   *
   * @param {Int32Array} positions
   * @param {number} id
   * @param {(there: number) => boolean} mayPaint
   */
  writePositions(positions, id, mayPaint) {
    for (const at of positions) if (mayPaint(this.ids[at])) this.ids[at] = id;
  }

  /**
   * Gives all pixels of an id another one.
   *
   * @param {number} from
   * @param {number} to
   * @param {Box} box that holds all pixels of `from`
   */
  renumber(from, to, box) {
    for (let y = box.y; y < box.y + box.height; y++) {
      const start = y * this.width + box.x;
      for (let at = start; at < start + box.width; at++) if (this.ids[at] === from) this.ids[at] = to;
    }
  }
}
