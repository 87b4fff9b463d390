/** Images of a few pixels for tests, drawn as text: one digit a pixel. */

import { encodeSegment } from "../../../../pipeline/review_page/static/rle.js";

export const LABELS = ["sky", "road", "car", "tree", "boat"].map((name, id) => ({
  id,
  name,
  is_thing: id > 1,
}));

/** Returns an image as the server gives it, with a segment for each digit but 0. */
export function imageOf(text) {
  const { ids, width, height } = idsOf(text);
  const segments = [...new Set(ids)]
    .filter((id) => id > 0)
    .sort((a, b) => a - b)
    .map((id) => {
      const whole = { x: 0, y: 0, width, height };
      const { rle, area, box } = encodeSegment(ids, { width, height, id, box: whole });
      const label = LABELS[id % LABELS.length];
      return {
        segment_id: id, label_id: label.id, label: label.name, is_thing: label.is_thing,
        score: 0.5, second_label_id: 0, second_label: "sky", second_score: 0.2, area,
        bbox_x: box.x, bbox_y: box.y, bbox_w: box.width, bbox_h: box.height, rle,
        origin: "model", origin_segment_id: id,
      };
    });
  return { image_id: "a.jpg", width, height, revision: 0, segments };
}

export function idsOf(text) {
  const rows = text.trim().split(/\s+/);
  const ids = Uint16Array.from(rows.join(""), Number);
  return { ids, width: rows[0].length, height: rows.length };
}

/** Returns the map of an annotation as text, as `imageOf` takes it. */
export function textOf({ ids, width }) {
  const rows = [];
  for (let at = 0; at < ids.length; at += width) rows.push([...ids.subarray(at, at + width)].join(""));
  return rows.join(" ");
}
