/**
 * COCO's compressed run lengths: column by column, background first, the same bytes as pycocotools.
 *
 * @typedef {{x: number, y: number, width: number, height: number}} Box
 */

const OFFSET = 48;
const CHUNK_BITS = 5;
const CONTINUES = 0x20;
const SIGN = 0x10;

/**
 * Returns the lengths of the runs of a string, background first.
 *
 * @param {string} rle
 * @returns {number[]}
 */
export function countsOf(rle) {
  const counts = [];
  let at = 0;
  while (at < rle.length) {
    let value = 0;
    let shift = 0;
    let chunk;
    do {
      if (at >= rle.length) throw new Error("a run length must be whole, but the string ends in it");
      chunk = rle.charCodeAt(at++) - OFFSET;
      value |= (chunk & 0x1f) << shift;
      shift += CHUNK_BITS;
    } while (chunk & CONTINUES);
    if (chunk & SIGN && shift < 32) value |= -1 << shift;
    // From the fourth on, a length is stored as its difference to the last but one.
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/**
 * Returns the string of the lengths of runs, background first.
 *
 * @param {ArrayLike<number>} counts
 * @returns {string}
 */
export function stringOf(counts) {
  const characters = [];
  for (let i = 0; i < counts.length; i++) {
    let value = i > 2 ? counts[i] - counts[i - 2] : counts[i];
    let isLast = false;
    while (!isLast) {
      let chunk = value & 0x1f;
      value >>= CHUNK_BITS;
      isLast = chunk & SIGN ? value === -1 : value === 0;
      if (!isLast) chunk |= CONTINUES;
      characters.push(chunk + OFFSET);
    }
  }
  const parts = [];
  for (let i = 0; i < characters.length; i += 8192) {
    parts.push(String.fromCharCode(...characters.slice(i, i + 8192)));
  }
  return parts.join("");
}

/**
 * Writes an id into the pixels of a mask. The map of ids is row by row.
 *
 * @param {string} rle
 * @param {{ids: Uint16Array, width: number, height: number, id: number}} target
 */
export function paintRle(rle, { ids, width, height, id }) {
  const counts = countsOf(rle);
  let start = 0;
  for (let i = 0; i < counts.length; i++) {
    const stop = start + counts[i];
    if (i % 2 === 1) {
      let x = Math.floor(start / height);
      let y = start - x * height;
      let left = stop - start;
      while (left > 0) {
        const rows = Math.min(left, height - y);
        for (let at = y * width + x, end = at + rows * width; at < end; at += width) ids[at] = id;
        left -= rows;
        x += 1;
        y = 0;
      }
    }
    start = stop;
  }
  if (start !== width * height) {
    throw new Error(`run lengths must cover ${width * height} pixels, but they cover ${start}`);
  }
}

/**
 * Returns run lengths, area and tight box of an id in a map, or null where no pixel has it.
 *
 * @param {Uint16Array} ids rows of the map from `firstRow` on
 * @param {{width: number, height: number, id: number, box: Box, firstRow?: number}} of
 *   `box` holds all pixels of the id; `height` is that of the whole image
 * @returns {{rle: string, area: number, box: Box} | null}
 */
export function encodeSegment(ids, { width, height, id, box, firstRow = 0 }) {
  const counts = [];
  const top = box.y;
  const bottom = box.y + box.height;
  let last = 0;
  let area = 0;
  let isInside = false;
  let [left, right, highest, lowest] = [width, -1, height, -1];
  const turn = (position) => {
    counts.push(position - last);
    if (isInside) area += position - last;
    last = position;
    isInside = !isInside;
  };
  for (let x = box.x; x < box.x + box.width; x++) {
    const column = x * height;
    if (isInside && top > 0) turn(column);
    let at = (top - firstRow) * width + x;
    for (let y = top; y < bottom; y++, at += width) {
      const isSegment = ids[at] === id;
      if (isSegment !== isInside) turn(column + y);
      if (isSegment) {
        if (x < left) left = x;
        if (x > right) right = x;
        if (y < highest) highest = y;
        if (y > lowest) lowest = y;
      }
    }
    if (isInside && bottom < height) turn(column + bottom);
  }
  const total = width * height;
  const end = (box.x + box.width) * height;
  if (isInside && end < total) turn(end);
  counts.push(total - last);
  if (isInside) area += total - last;
  if (area === 0) return null;
  return {
    rle: stringOf(counts),
    area,
    box: { x: left, y: highest, width: right - left + 1, height: lowest - highest + 1 },
  };
}
