/**
 * The annotation of one image: a map of ids and a row for each id, changed step by step.
 *
 * A step holds what it changed, before and after: it can be undone, done again, stored as a draft
 * and replayed over the rows that it began with.
 *
 * @typedef {import("./rle.js").Box} Box
 * @typedef {import("./shapes.js").Span} Span
 * @typedef {import("./patches.js").Tile} Tile
 * @typedef {{id: number, name: string, is_thing: boolean}} Label
 * @typedef {{segment_id: number, label_id: number, label: string, is_thing: boolean,
 *   score: number | null, second_label_id: number | null, second_label: string | null,
 *   second_score: number | null, area: number, bbox_x: number, bbox_y: number, bbox_w: number,
 *   bbox_h: number, rle: string | null, origin: "model" | "human",
 *   origin_segment_id: number | null}} Segment
 *   `rle` is null after a change of pixels, until it is encoded; the box then holds all pixels and
 *   may be larger than they need
 * @typedef {{kind: string, segment_ids: number[], label_from: string | null,
 *   label_to: string | null, pixels: number}} Operation
 * @typedef {{operation: Operation, tiles: Tile[], before: [number, Segment | null][],
 *   after: [number, Segment | null][]}} Step
 */

import { union } from "./boxes.js";
import { IdMap, VOID } from "./id_map.js";
import { Recorder, boxOfTiles, difference, restore } from "./patches.js";
import { connectedParts, holes } from "./regions.js";
import { boxOfSpans } from "./shapes.js";

const MOST_PARTS = 200;

/** Changes segments, and undoes and redoes each change. */
export class Annotation {
  /** @type {Step[]} */
  steps = [];
  /** Number of steps that are in force; those behind it were undone. */
  done = 0;
  #open = null;
  #highestId = 0;

  /** @param {{height: number, width: number, segments: Segment[]}} image rows as the server gives them */
  constructor(image) {
    this.map = IdMap.of(image);
    /** @type {Map<number, Segment>} */
    this.segments = new Map(
      image.segments.map((segment) => [segment.segment_id, Object.freeze({ ...segment })]),
    );
    for (const id of this.segments.keys()) this.#highestId = Math.max(this.#highestId, id);
  }

  /** Returns an id that no segment has or had. */
  get freeId() {
    return this.#highestId + 1;
  }

  /** Tells whether a stroke has begun and not ended. */
  get isPainting() {
    return this.#open !== null;
  }

  /**
   * Begins a stroke, whose moves become one step.
   *
   * @param {{id: number, kind: string, over: "void" | "all", label?: Label, only?: number}} stroke
   *   `id` is written; with a `label` it may be new. `over` says which pixels may change, `only`
   *   restricts them to those of one segment
   */
  beginStroke({ id, kind, over, label, only }) {
    const isOver = { void: (there) => there === VOID, all: () => true }[over];
    const mayPaint = only === undefined ? isOver : (there) => there === only;
    this.#open = { id, kind, label, mayPaint, recorder: new Recorder(this.map) };
  }

  /**
   * Writes spans in the open stroke.
   *
   * @param {Span[]} spans
   * @returns {Box | null} where something may have changed
   */
  paint(spans) {
    const { id, mayPaint, recorder } = this.#open;
    const box = boxOfSpans(spans);
    if (box === null) return null;
    recorder.keep(box);
    this.map.writeSpans(spans, id, mayPaint);
    return box;
  }

  /**
   * Ends the open stroke.
   *
   * @returns {Step | null} null where no pixel changed
   */
  endStroke() {
    const { id, kind, label, recorder } = this.#open;
    this.#open = null;
    return this.#record({ kind, recorder, created: label ? new Map([[id, label]]) : new Map() });
  }

  /**
   * Gives segments a label.
   *
   * @param {number[]} ids
   * @param {Label} label
   * @returns {Step | null}
   */
  relabel(ids, label) {
    const changed = ids
      .map((id) => this.segments.get(id))
      .filter((segment) => segment && segment.label_id !== label.id);
    if (changed.length === 0) return null;
    return this.#push({
      operation: {
        kind: "relabel",
        segment_ids: changed.map((segment) => segment.segment_id),
        label_from: changed[0].label,
        label_to: label.name,
        pixels: changed.reduce((sum, segment) => sum + segment.area, 0),
      },
      tiles: [],
      before: changed.map((segment) => [segment.segment_id, segment]),
      after: changed.map((segment) => [segment.segment_id, relabelled(segment, label)]),
    });
  }

  /**
   * Turns the pixels of segments to void.
   *
   * @param {number[]} ids
   * @returns {Step | null}
   */
  delete(ids) {
    return this.#renumber("delete", ids, VOID);
  }

  /**
   * Gives the pixels of segments to the first of them, which keeps its label.
   *
   * @param {number[]} ids
   * @returns {Step | null} null where there are fewer than two
   */
  merge([first, ...others]) {
    return others.length === 0 ? null : this.#renumber("merge", others, first);
  }

  /**
   * Makes each connected part of a segment one of its own; the largest keeps the id.
   *
   * Beyond 200 parts, the smallest stay with the largest.
   *
   * @param {number} id
   * @returns {Step | null} null where the segment has one part
   */
  split(id) {
    const segment = this.segments.get(id);
    const parts = connectedParts(this.map, id, boxOf(segment)).slice(0, MOST_PARTS);
    if (parts.length < 2) return null;
    const recorder = new Recorder(this.map);
    recorder.keep(boxOf(segment));
    const created = new Map();
    const label = { id: segment.label_id, name: segment.label, is_thing: segment.is_thing };
    let free = this.freeId;
    for (const part of parts.slice(1)) {
      this.map.writePositions(part, free, () => true);
      created.set(free, label);
      free += 1;
    }
    return this.#record({ kind: "split", recorder, created, from: segment });
  }

  /**
   * Gives a segment the pixels that it surrounds.
   *
   * @param {number} id
   * @param {"void" | "all"} over
   * @returns {Step | null}
   */
  fillHoles(id, over) {
    const box = boxOf(this.segments.get(id));
    const recorder = new Recorder(this.map);
    recorder.keep(box);
    const mayPaint = over === "void" ? (there) => there === VOID : () => true;
    this.map.writePositions(holes(this.map, id, box), id, mayPaint);
    return this.#record({ kind: "fill", recorder });
  }

  /**
   * Takes back the last step in force.
   *
   * @returns {Step | null}
   */
  undo() {
    if (this.done === 0) return null;
    const step = this.steps[--this.done];
    this.#put(step, "before");
    return step;
  }

  /**
   * Does the step again that was undone last.
   *
   * @returns {Step | null}
   */
  redo() {
    if (this.done === this.steps.length) return null;
    const step = this.steps[this.done++];
    this.#put(step, "after");
    return step;
  }

  /**
   * Does the steps of a draft, of which the first `done` are in force.
   *
   * @param {Step[]} steps
   * @param {number} done
   */
  replay(steps, done) {
    this.steps = [...steps];
    while (this.done < Math.min(done, steps.length)) this.redo();
    for (const { after } of steps) for (const [id] of after) this.#highestId = Math.max(this.#highestId, id);
  }

  /** Returns the segments whose run lengths must be encoded again. */
  get unencoded() {
    return [...this.segments.values()].filter((segment) => segment.rle === null);
  }

  /** Returns the segments in the order of their ids. */
  get rows() {
    return [...this.segments.values()].sort((a, b) => a.segment_id - b.segment_id);
  }

  /**
   * Takes over the run lengths of a segment, unless it changed since they were asked for.
   *
   * @param {Segment} segment
   * @param {{rle: string, area: number, box: Box} | null} encoded null where no pixel shows it, as
   *   of a segment that lay below another one
   * @returns {Segment | null} the segment with them
   */
  putEncoded(segment, encoded) {
    const id = segment.segment_id;
    const whole = encoded && encodedSegment(segment, encoded);
    if (this.segments.get(id) === segment) this.#putSegment(id, whole);
    return whole;
  }

  #renumber(kind, ids, to) {
    const there = ids.map((id) => this.segments.get(id)).filter(Boolean);
    const recorder = new Recorder(this.map);
    for (const segment of there) {
      recorder.keep(boxOf(segment));
      this.map.renumber(segment.segment_id, to, boxOf(segment));
    }
    return this.#record({ kind, recorder, from: there[0] });
  }

  /** Makes a step of the pixels that changed since the recorder was made. */
  #record({ kind, recorder, created = new Map(), from = null }) {
    const tiles = recorder.changedTiles();
    if (tiles.length === 0) return null;
    const { pixels, growth } = difference(tiles);
    const touched = boxOfTiles(tiles);
    const before = [];
    const after = [];
    for (const [id, growthOfId] of growth) {
      if (id === VOID) continue;
      const old = this.segments.get(id) ?? null;
      before.push([id, old]);
      after.push([id, grown(old ?? drawn(id, created.get(id)), growthOfId, touched)]);
    }
    const ids = [...growth.keys()].filter((id) => id !== VOID);
    const label = from?.label ?? this.segments.get(ids[0])?.label ?? null;
    return this.#push({
      operation: {
        kind,
        segment_ids: ids.sort((a, b) => a - b),
        label_from: kind === "draw" ? null : label,
        label_to: created.values().next().value?.name ?? null,
        pixels,
      },
      tiles,
      before,
      after,
    });
  }

  #push(step) {
    this.steps.length = this.done;
    this.steps.push(step);
    this.done += 1;
    for (const [id, segment] of step.after) this.#putSegment(id, segment);
    return step;
  }

  #put(step, state) {
    restore(this.map, step.tiles, state);
    for (const [id, segment] of step[state]) this.#putSegment(id, segment);
  }

  #putSegment(id, segment) {
    this.#highestId = Math.max(this.#highestId, id);
    if (segment === null) this.segments.delete(id);
    else this.segments.set(id, segment);
  }
}

/**
 * Returns the box of a segment, which holds all of its pixels.
 *
 * @param {Segment} segment
 * @returns {Box}
 */
export function boxOf(segment) {
  return { x: segment.bbox_x, y: segment.bbox_y, width: segment.bbox_w, height: segment.bbox_h };
}

/** Returns a segment with the run lengths, area and box of the pixels that it has now. */
function encodedSegment(segment, { rle, area, box }) {
  return Object.freeze({
    ...segment,
    rle,
    area,
    bbox_x: box.x,
    bbox_y: box.y,
    bbox_w: box.width,
    bbox_h: box.height,
  });
}

/** Returns a segment without pixels, drawn by a person. */
function drawn(id, label) {
  return {
    segment_id: id,
    label_id: label.id,
    label: label.name,
    is_thing: label.is_thing,
    score: null,
    second_label_id: null,
    second_label: null,
    second_score: null,
    area: 0,
    rle: null,
    origin: "human",
    origin_segment_id: null,
  };
}

function relabelled(segment, label) {
  return Object.freeze({
    ...segment,
    label_id: label.id,
    label: label.name,
    is_thing: label.is_thing,
    score: null,
    second_label_id: null,
    second_label: null,
    second_score: null,
    origin: "human",
  });
}

/** Returns a segment after its pixels changed within a box, or null where none is left. */
function grown(segment, growth, touched) {
  const area = segment.area + growth;
  if (area === 0) return null;
  const box = segment.area === 0 ? touched : union(boxOf(segment), touched);
  return Object.freeze({
    ...segment,
    area,
    rle: null,
    bbox_x: box.x,
    bbox_y: box.y,
    bbox_w: box.width,
    bbox_h: box.height,
    origin: "human",
  });
}
