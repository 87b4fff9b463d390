/**
 * Connected regions of an id in a map: its parts, and the holes in it.
 *
 * @typedef {import("./rle.js").Box} Box
 */

/**
 * Returns the parts of a segment, largest first; pixels that touch at a corner are of one part.
 *
 * @param {{ids: Uint16Array, width: number}} map
 * @param {number} id
 * @param {Box} box that holds all pixels of the segment
 * @returns {Int32Array[]} positions of the pixels of each part in the map
 */
export function connectedParts(map, id, box) {
  const isOpen = crop(map, box, (value) => value === id);
  const parts = [];
  for (let start = 0; start < isOpen.length; start++) {
    if (isOpen[start]) parts.push(flood(isOpen, box, [start], 8));
  }
  parts.sort((a, b) => b.length - a.length);
  return parts.map((part) => part.map((at) => positionInMap(at, box, map.width)));
}

/**
 * Returns the pixels that a segment surrounds and that are not its own.
 *
 * @param {{ids: Uint16Array, width: number}} map
 * @param {number} id
 * @param {Box} box that holds all pixels of the segment
 * @returns {Int32Array} positions in the map
 */
export function holes(map, id, box) {
  const isOpen = crop(map, box, (value) => value !== id);
  const edge = [];
  for (let x = 0; x < box.width; x++) edge.push(x, (box.height - 1) * box.width + x);
  for (let y = 0; y < box.height; y++) edge.push(y * box.width, (y + 1) * box.width - 1);
  // What stays open after this is reached from nowhere outside.
  flood(isOpen, box, edge, 4);
  const inside = [];
  for (let at = 0; at < isOpen.length; at++) {
    if (isOpen[at]) inside.push(positionInMap(at, box, map.width));
  }
  return Int32Array.from(inside);
}

/** Returns 1 for each pixel of a box that a test holds for. */
function crop(map, box, test) {
  const cut = new Uint8Array(box.width * box.height);
  for (let y = 0; y < box.height; y++) {
    const row = (box.y + y) * map.width + box.x;
    for (let x = 0; x < box.width; x++) cut[y * box.width + x] = test(map.ids[row + x]) ? 1 : 0;
  }
  return cut;
}

/** Closes the open pixels that are connected with `starts`, and returns their positions. */
function flood(isOpen, { width, height }, starts, connectivity) {
  const found = [];
  const reach = (at) => {
    if (isOpen[at]) {
      isOpen[at] = 0;
      found.push(at);
    }
  };
  for (const start of starts) reach(start);
  for (let next = 0; next < found.length; next++) {
    const at = found[next];
    const x = at % width;
    const y = (at - x) / width;
    const [hasLeft, hasRight, hasUp, hasDown] = [x > 0, x + 1 < width, y > 0, y + 1 < height];
    if (hasLeft) reach(at - 1);
    if (hasRight) reach(at + 1);
    if (hasUp) reach(at - width);
    if (hasDown) reach(at + width);
    if (connectivity === 8) {
      if (hasUp && hasLeft) reach(at - width - 1);
      if (hasUp && hasRight) reach(at - width + 1);
      if (hasDown && hasLeft) reach(at + width - 1);
      if (hasDown && hasRight) reach(at + width + 1);
    }
  }
  return Int32Array.from(found);
}

function positionInMap(at, box, width) {
  const x = at % box.width;
  return (box.y + (at - x) / box.width) * width + box.x + x;
}
