/**
 * Draws a map of ids over a photograph, at the resolution of the screen.
 *
 * Each pixel of the screen looks up the id below it: a redraw takes as long for an image of 2
 * megapixels as for one of 50, and outlines are as thin at each zoom.
 *
 * @typedef {import("./rle.js").Box} Box
 * @typedef {{scale: number, x: number, y: number}} View screen pixels of an image pixel, and where
 *   the image's corner is on the screen
 */

import { clip } from "./boxes.js";
import { outlineColour, packed } from "./palette.js";

const WHITE = 0xffffffff;
const BLACK = 0xff000000;
const MOST_IDS = 65536;

/** Holds a canvas and draws a map of ids into it. */
export class Overlay {
  opacity = 0.5;
  hasOutlines = true;
  /** @type {Map<number, import("./palette.js").Colour>} */
  #colours = new Map();
  #fills = new Uint32Array(MOST_IDS);
  #outlines = new Uint32Array(MOST_IDS);
  #isSelected = new Uint8Array(MOST_IDS);
  #selected = [];
  #pixels = null;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    /** @type {View} in pixels of the canvas */
    this.view = { scale: 1, x: 0, y: 0 };
    this.map = null;
  }

  /**
   * Sets the size of the canvas in its own pixels.
   *
   * @param {number} width
   * @param {number} height
   */
  resize(width, height) {
    if (this.#pixels !== null && this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.#pixels = this.context.createImageData(Math.max(width, 1), Math.max(height, 1));
  }

  /** @param {Map<number, import("./palette.js").Colour>} colours by id */
  setColours(colours) {
    this.#colours = colours;
    this.updatePalette();
  }

  /** Makes the palette again after a change of opacity. */
  updatePalette() {
    this.#fills.fill(0);
    this.#outlines.fill(0);
    const alpha = Math.round(255 * this.opacity);
    for (const [id, colour] of this.#colours) {
      this.#fills[id] = packed(colour, alpha);
      this.#outlines[id] = packed(outlineColour(colour), Math.min(255, 90 + alpha));
    }
  }

  /** @param {number[]} ids that are framed in white and black */
  setSelected(ids) {
    for (const id of this.#selected) this.#isSelected[id] = 0;
    this.#selected = [...ids];
    for (const id of this.#selected) this.#isSelected[id] = 1;
  }

  /**
   * Draws what has changed.
   *
   * @param {Box | null} box in pixels of the image; null for all
   */
  draw(box = null) {
    if (this.#pixels === null) return;
    const rect = this.#rectOf(box);
    if (rect.width === 0 || rect.height === 0) return;
    if (this.map === null) this.#pixels.data.fill(0);
    else this.#render(rect);
    this.context.putImageData(this.#pixels, 0, 0, rect.x, rect.y, rect.width, rect.height);
  }

  /** Returns the pixels of the canvas that show a box of the image, and the frame around it. */
  #rectOf(box) {
    const all = { x: 0, y: 0, width: this.canvas.width, height: this.canvas.height };
    if (box === null) return all;
    const { scale, x, y } = this.view;
    const reach = 4;
    return clip(
      {
        x: box.x * scale + x - reach,
        y: box.y * scale + y - reach,
        width: box.width * scale + 2 * reach + 1,
        height: box.height * scale + 2 * reach + 1,
      },
      all,
    );
  }

  #render(rect) {
    const { ids, width, height } = this.map;
    const { scale, x: left, y: top } = this.view;
    const target = new Uint32Array(this.#pixels.data.buffer);
    const stride = this.canvas.width;
    // With two pixels on each side for outlines and frames.
    const columns = positions(rect.x - 2, rect.width + 4, { scale, offset: left, length: width });
    const rows = positions(rect.y - 2, rect.height + 4, { scale, offset: top, length: height });
    const fills = this.#fills;
    const outlines = this.hasOutlines ? this.#outlines : this.#fills;
    const isSelected = this.#isSelected;
    const hasSelected = this.#selected.length > 0;
    const idAt = (row, column) => (row < 0 || column < 0 ? 0 : ids[row * width + column]);
    for (let y = 0; y < rect.height; y++) {
      const row = rows[y + 2];
      let at = (rect.y + y) * stride + rect.x;
      if (row < 0 && !(hasSelected && (rows[y] >= 0 || rows[y + 4] >= 0))) {
        target.fill(0, at, at + rect.width);
        continue;
      }
      const above = rows[y + 1];
      let before = idAt(row, columns[1]);
      for (let x = 0; x < rect.width; x++, at++) {
        const column = columns[x + 2];
        const id = idAt(row, column);
        const up = idAt(above, column);
        target[at] = id === before && id === up ? fills[id] : outlines[id || before || up];
        before = id;
        if (hasSelected) {
          const here = isSelected[id];
          const differs =
            isSelected[idAt(row, columns[x])] !== here ||
            isSelected[idAt(row, columns[x + 4])] !== here ||
            isSelected[idAt(rows[y], column)] !== here ||
            isSelected[idAt(rows[y + 4], column)] !== here;
          if (differs) target[at] = here ? WHITE : BLACK;
        }
      }
    }
  }
}

/** Returns the image's row or column below each pixel of the canvas, -1 outside of the image. */
function positions(start, count, { scale, offset, length }) {
  const found = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const position = Math.floor((start + i + 0.5 - offset) / scale);
    found[i] = position >= 0 && position < length ? position : -1;
  }
  return found;
}
