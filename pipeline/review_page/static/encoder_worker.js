/** A worker that encodes the segments of a map whose pixels changed; `encoder.js` asks it. */

import { encodeSegment } from "./rle.js";

self.onmessage = ({ data: { number, ids, width, height, firstRow, segments } }) => {
  const encoded = segments.map(({ id, box }) => encodeSegment(ids, { width, height, id, box, firstRow }));
  self.postMessage({ number, encoded });
};

self.postMessage({ isReady: true });
