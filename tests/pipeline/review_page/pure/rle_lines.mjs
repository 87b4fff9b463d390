/**
 * Answers each line of JSON: `{ids, width, height, rles}` with the run lengths of each id and the map
 * of `rles`, `{counts}` with their string and what is read from it.
 */

import { createInterface } from "node:readline";

import { IdMap } from "../../../../pipeline/review_page/static/id_map.js";
import { countsOf, encodeSegment, stringOf } from "../../../../pipeline/review_page/static/rle.js";

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  const answer = question.counts ? answerOfCounts(question) : answerOfMap(question);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

function answerOfCounts({ counts }) {
  const rle = stringOf(counts);
  return { rle, counts: countsOf(rle) };
}

function answerOfMap({ ids, width, height, rles }) {
  const map = Uint16Array.from(ids);
  const whole = { x: 0, y: 0, width, height };
  const encoded = Object.entries(rles).map(([id, { box }]) => {
    const [x, y, w, h] = box;
    const of = { width, height, id: Number(id) };
    const ofRows = { ...of, box: { x, y, width: w, height: h }, firstRow: y };
    return [
      id,
      encodeSegment(map.subarray(y * width), ofRows),
      encodeSegment(map, { ...of, box: whole }),
    ];
  });
  const segments = Object.entries(rles).map(([id, { rle }]) => ({ segment_id: Number(id), rle }));
  return { encoded, decoded: [...IdMap.of({ width, height, segments }).ids] };
}
