/**
 * Changes of a map of ids as tiles before and after, so that a step is undone by its own pixels.
 *
 * A tile is kept as runs of equal ids: a step over a whole image of 12 megapixels stays small.
 *
 * @typedef {import("./rle.js").Box} Box
 * @typedef {{x: number, y: number, width: number, height: number,
 *   before: Uint16Array, after: Uint16Array}} Tile
 */

import { clip } from "./boxes.js";

const SIDE = 64;

/** Remembers the tiles of a map as they were before a step wrote into them. */
export class Recorder {
  #before = new Map();

  /** @param {{ids: Uint16Array, width: number, height: number}} map */
  constructor(map) {
    this.map = map;
  }

  /**
   * Keeps what lies in a box; call it before each write.
   *
   * @param {Box} box
   */
  keep(box) {
    const { x, y, width, height } = clip(box, this.map);
    if (width === 0 || height === 0) return;
    const columns = Math.ceil(this.map.width / SIDE);
    for (let row = Math.floor(y / SIDE); row * SIDE < y + height; row++) {
      for (let column = Math.floor(x / SIDE); column * SIDE < x + width; column++) {
        const number = row * columns + column;
        if (!this.#before.has(number)) {
          const corner = { x: column * SIDE, y: row * SIDE, width: SIDE, height: SIDE };
          const tile = clip(corner, this.map);
          this.#before.set(number, { ...tile, before: pack(this.map, tile) });
        }
      }
    }
  }

  /**
   * Returns the tiles that differ now, with both states.
   *
   * @returns {Tile[]}
   */
  changedTiles() {
    const changed = [];
    for (const tile of this.#before.values()) {
      const after = pack(this.map, tile);
      if (!isEqual(tile.before, after)) changed.push({ ...tile, after });
    }
    return changed;
  }
}

/**
 * Writes one state of tiles into a map.
 *
 * @param {{ids: Uint16Array, width: number}} map
 * @param {Tile[]} tiles
 * @param {"before" | "after"} state
 */
export function restore(map, tiles, state) {
  for (const tile of tiles) {
    const runs = tile[state];
    let at = 0;
    for (let i = 0; i < runs.length; i += 2) {
      for (let left = runs[i + 1]; left > 0; ) {
        const x = at % tile.width;
        const run = Math.min(left, tile.width - x);
        const start = (tile.y + (at - x) / tile.width) * map.width + tile.x + x;
        map.ids.fill(runs[i], start, start + run);
        at += run;
        left -= run;
      }
    }
  }
}

/**
 * Counts by how many pixels each id grew or shrank, and how many pixels changed their id.
 *
 * @param {Tile[]} tiles
 * @returns {{pixels: number, growth: Map<number, number>}} ids without a changed pixel are left out
 */
export function difference(tiles) {
  const growth = new Map();
  let pixels = 0;
  const add = (id, count) => growth.set(id, (growth.get(id) ?? 0) + count);
  for (const { before, after } of tiles) {
    let [i, j] = [0, 0];
    let [leftBefore, leftAfter] = [before[1], after[1]];
    while (i < before.length) {
      const run = Math.min(leftBefore, leftAfter);
      if (before[i] !== after[j]) {
        add(before[i], -run);
        add(after[j], run);
        pixels += run;
      }
      leftBefore -= run;
      leftAfter -= run;
      if (leftBefore === 0) leftBefore = before[(i += 2) + 1];
      if (leftAfter === 0) leftAfter = after[(j += 2) + 1];
    }
  }
  return { pixels, growth };
}

/**
 * Returns the smallest box around tiles, or null where there is none.
 *
 * @param {Tile[]} tiles
 * @returns {Box | null}
 */
export function boxOfTiles(tiles) {
  if (tiles.length === 0) return null;
  let [left, top, right, bottom] = [Infinity, Infinity, 0, 0];
  for (const { x, y, width, height } of tiles) {
    left = Math.min(left, x);
    top = Math.min(top, y);
    right = Math.max(right, x + width);
    bottom = Math.max(bottom, y + height);
  }
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** Returns a tile's pixels as pairs of an id and a number of pixels, row by row. */
function pack(map, { x, y, width, height }) {
  const runs = [];
  let id = map.ids[y * map.width + x];
  let count = 0;
  for (let row = y; row < y + height; row++) {
    const start = row * map.width + x;
    for (let at = start; at < start + width; at++) {
      const value = map.ids[at];
      if (value !== id) {
        runs.push(id, count);
        id = value;
        count = 0;
      }
      count += 1;
    }
  }
  runs.push(id, count);
  return Uint16Array.from(runs);
}

function isEqual(a, b) {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
