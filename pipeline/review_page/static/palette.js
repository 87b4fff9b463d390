/**
 * Colours of segments: the label's, lighter or darker from one segment to the next.
 *
 * @typedef {[number, number, number]} Colour red, green and blue in [0, 255]
 */

const GOLDEN = 0.618034;

/**
 * Returns the colour of a segment, the same as in the server's thumbnails.
 *
 * @param {Colour} label the label's colour
 * @param {number} segmentId
 * @returns {Colour}
 */
export function segmentColour(label, segmentId) {
  const brightness = 0.7 + 0.3 * ((segmentId * GOLDEN) % 1);
  return /** @type {Colour} */ (label.map((channel) => Math.round(channel * brightness)));
}

/**
 * Returns a colour that stands out from another one, for its outline: dark on light, light on dark.
 *
 * @param {Colour} colour
 * @returns {Colour}
 */
export function outlineColour(colour) {
  const [towards, share] = luminance(colour) > 0.3 ? [0, 0.6] : [255, 0.65];
  return /** @type {Colour} */ (
    colour.map((channel) => Math.round(channel + (towards - channel) * share))
  );
}

/**
 * Returns a colour as one number, as a canvas holds it on a little-endian machine.
 *
 * @param {Colour} colour
 * @param {number} alpha in [0, 255]
 * @returns {number}
 */
export function packed([red, green, blue], alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** Returns the relative luminance of WCAG, in [0, 1]. */
function luminance(colour) {
  const [red, green, blue] = colour.map((channel) => {
    const share = channel / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
