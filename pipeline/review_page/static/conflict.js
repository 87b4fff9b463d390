/** Shows two reviews of one image side by side, and asks which one counts. */

import { IdMap } from "./id_map.js";
import { address } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { Overlay } from "./overlay.js";
import { STATUS_WORDS, clock } from "./words.js";

const WIDEST = 720;
const PHOTO_PIXELS = 1024;
const MOST_FACTS = 6;

/**
 * Asks a person to choose between two reviews; both stay in the history.
 *
 * @param {{imageId: string, theirs: any, yours: {height: number, width: number, status: string,
 *   segments: any[]}, coloursOf: (segments: any[]) => Map<number, any>}} of
 * @returns {Promise<"theirs" | "yours" | null>} null where it is put off
 */
export function choose({ imageId, theirs, yours, coloursOf }) {
  const dialog = byId("conflict");
  const at = theirs.created_at ? ` at ${clock(theirs.created_at)}` : "";
  setText(
    byId("conflict-text"),
    `${theirs.reviewer} saved ${imageId}${at}, after you had opened it, and changed the same pixels. ` +
      "Both reviews are kept; choose the one that counts.",
  );
  setText(byId("theirs-name"), `${theirs.reviewer}: ${STATUS_WORDS[theirs.status] ?? ""}`);
  setText(byId("yours-name"), `Yours: ${STATUS_WORDS[yours.status] ?? ""}`);
  showSide("theirs", { imageId, image: { ...yours, ...theirs }, other: yours, coloursOf });
  showSide("yours", { imageId, image: yours, other: theirs, coloursOf });
  dialog.returnValue = "";
  dialog.showModal();
  byId("keep-theirs").onclick = () => dialog.close("theirs");
  byId("keep-yours").onclick = () => dialog.close("yours");
  byId("conflict-later").onclick = () => dialog.close("");
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue || null);
  });
}

function showSide(side, { imageId, image, other, coloursOf }) {
  byId(`${side}-photo`).src = address("/api/photo", { image_id: imageId, size: PHOTO_PIXELS });
  const overlay = new Overlay(byId(`${side}-overlay`));
  const width = Math.min(WIDEST, image.width);
  const scale = width / image.width;
  overlay.resize(width, Math.max(1, Math.round(image.height * scale)));
  overlay.view = { scale, x: 0, y: 0 };
  overlay.map = IdMap.of(image);
  overlay.setColours(coloursOf(image.segments));
  const different = differences(image.segments, other.segments);
  overlay.setSelected(different.map((segment) => segment.segment_id));
  overlay.draw();
  const facts = different
    .slice(0, MOST_FACTS)
    .map(({ label, segment_id: id }) => element("li", {}, `${label} ${id}`));
  if (different.length > MOST_FACTS) {
    facts.push(element("li", {}, `and ${different.length - MOST_FACTS} more`));
  }
  if (facts.length === 0) facts.push(element("li", {}, "no segment that the other has not"));
  byId(`${side}-facts`).replaceChildren(...facts);
}

/**
 * Returns the segments that the other side has not, or has with another label or other pixels.
 *
 * @param {any[]} segments
 * @param {any[]} others
 * @returns {any[]}
 */
export function differences(segments, others) {
  const there = new Set(others.map(({ label, rle }) => `${label}\n${rle}`));
  return segments.filter(({ label, rle }) => !there.has(`${label}\n${rle}`));
}
