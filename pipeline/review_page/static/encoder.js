/** Encodes the changed segments of an annotation in a worker, so that the page stays fluent. */

import { boxOf } from "./annotation.js";
import { union } from "./boxes.js";
import { encodeSegment } from "./rle.js";

const waiting = new Map();
/** The worker, once it has said that it is there: later, there may be no server to load it from. */
let ready = null;
let requests = 0;

/** Loads the worker; until it is there, segments are encoded by the page itself. */
export function startEncoder() {
  const worker = new Worker(new URL("./encoder_worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { isReady, number, encoded } }) => {
    if (isReady) {
      ready = worker;
      return;
    }
    waiting.get(number).resolve(encoded);
    waiting.delete(number);
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message));
    waiting.clear();
    ready = null;
  };
}

/**
 * Gives each segment of an annotation its run lengths.
 *
 * @param {import("./annotation.js").Annotation} annotation that nobody changes in the meantime, or
 *   whose changed segments are then encoded by another call
 * @returns {Promise<import("./annotation.js").Segment[]>} the state at the time of the call
 */
export async function encodedRows(annotation) {
  const rows = annotation.rows;
  const changed = rows.filter((segment) => segment.rle === null);
  if (changed.length === 0) return rows;
  const { ids, width, height } = annotation.map;
  const box = changed.map(boxOf).reduce(union);
  const answer = await ask({
    // A copy of the rows that hold the segments: strokes may go on.
    ids: ids.slice(box.y * width, (box.y + box.height) * width),
    firstRow: box.y,
    width,
    height,
    segments: changed.map((segment) => ({ id: segment.segment_id, box: boxOf(segment) })),
  });
  const byId = new Map(rows.map((segment) => [segment.segment_id, segment]));
  changed.forEach((segment, i) => {
    byId.set(segment.segment_id, annotation.putEncoded(segment, answer[i]));
  });
  return rows.map((segment) => byId.get(segment.segment_id)).filter((segment) => segment !== null);
}

function ask(request) {
  if (ready === null) return encodedHere(request);
  const number = ++requests;
  const result = new Promise((resolve, reject) => waiting.set(number, { resolve, reject }));
  ready.postMessage({ ...request, number }, [request.ids.buffer]);
  return result;
}

function encodedHere({ ids, width, height, firstRow, segments }) {
  return segments.map(({ id, box }) => encodeSegment(ids, { width, height, id, box, firstRow }));
}
