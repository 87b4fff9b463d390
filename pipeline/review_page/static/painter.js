/**
 * The chosen tool and what it paints: a segment, a new one, or void.
 *
 * @typedef {import("./label_picker.js").Label} Label
 * @typedef {import("./annotation.js").Step} Step
 */

import { say } from "./notices.js";
import { BrushTool, PolygonTool, SelectTool } from "./tools.js";

const NOTHING = { x: 0, y: 0, width: 0, height: 0 };
const SMALLEST_RADIUS = 1;
const LARGEST_RADIUS = 200;

/** Holds the tools of the open image. */
export class Painter {
  /** @type {"select" | "brush" | "eraser" | "polygon"} */
  tool = "select";
  /** Whether painting writes void in place of a segment. */
  isVoid = false;
  /** The label of the segment that the next stroke begins. @type {Label | null} */
  newLabel = null;
  /** @type {"void" | "all"} */
  over = "all";
  radius = 20;

  /**
   * @param {{stage: import("./stage.js").Stage, session: () => import("./session.js").Session,
   *   selected: () => number[], select: (id: number, isAdded: boolean) => void,
   *   pointed: (id: number) => void, painted: (step: Step | null, newId: number | null) => void,
   *   changed: () => void}} of
   */
  constructor({ stage, session, selected, select, pointed, painted, changed }) {
    Object.assign(this, { stage, session, selected, painted, changed });
    const around = {
      annotation: () => session().annotation,
      stage,
      paintTarget: () => this.#target(),
      over: () => this.over,
      radius: () => this.radius,
      select,
      pointed,
      finished: (step, target) => this.#finished(step, target),
    };
    this.tools = {
      select: new SelectTool(around),
      brush: new BrushTool(around, { isEraser: false }),
      eraser: new BrushTool(around, { isEraser: true }),
      polygon: new PolygonTool(around),
    };
  }

  /** Returns the tool that the pointer moves. */
  get current() {
    return this.tools[this.tool];
  }

  /** Tells whether the arrow keys move the tool's pointer. */
  get hasCursor() {
    return this.tool !== "select";
  }

  /** Returns in words what the tool does. */
  get target() {
    const segment = this.session().annotation.segments.get(this.selected()[0]);
    const name = segment && `${segment.label} ${segment.segment_id}`;
    if (this.tool === "select") return "";
    if (this.tool === "eraser") return this.over === "void" && name ? `Erases ${name}` : "Erases to void";
    if (this.isVoid) return "Paints void";
    if (this.newLabel) return `Paints a new segment: ${this.newLabel.name}`;
    return name ? `Paints ${name}` : "Select a segment to paint, or New";
  }

  /** @param {"select" | "brush" | "eraser" | "polygon"} tool */
  choose(tool) {
    this.end();
    this.tool = tool;
    if (tool === "select") this.newLabel = null;
    this.changed();
  }

  /**
   * Paints a new segment with the next stroke.
   *
   * @param {Label} label
   */
  paintNew(label) {
    this.newLabel = label;
    this.isVoid = false;
    if (this.tool === "select" || this.tool === "eraser") this.tool = "brush";
  }

  /** Ends an open stroke and drops an open polygon; returns False where there was none. */
  end() {
    return Object.values(this.tools)
      .map((tool) => tool.cancel())
      .some(Boolean);
  }

  /** Forgets what was chosen for one image. */
  reset() {
    this.newLabel = null;
    this.isVoid = false;
  }

  /** Closes an open polygon; returns False where there is none. */
  closePolygon() {
    return this.current instanceof PolygonTool && this.current.close();
  }

  /** @param {number} radius in pixels of the image */
  setRadius(radius) {
    this.radius = Math.min(Math.max(Math.round(radius), SMALLEST_RADIUS), LARGEST_RADIUS);
    this.changed();
  }

  /** Makes the brush larger or smaller by a quarter, at least by one pixel. */
  resize(isLarger) {
    const next = Math.round(this.radius * (isLarger ? 1.25 : 0.8));
    this.setRadius(next === this.radius ? next + (isLarger ? 1 : -1) : next);
  }

  /**
   * Moves the tool's pointer.
   *
   * @param {string} arrow
   * @param {number} pixels of the image
   */
  moveCursor(arrow, pixels) {
    const { width, height } = this.session().image;
    const [dx, dy] = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[arrow];
    const { x, y } = this.#cursor();
    this.stage.cursor = {
      x: Math.min(Math.max(x + dx * pixels, 0), width),
      y: Math.min(Math.max(y + dy * pixels, 0), height),
    };
    this.current.move(this.stage.cursor);
    this.stage.invalidate(NOTHING);
  }

  /** Puts the pen down or lifts it, or sets a corner of a polygon. */
  pen() {
    const tool = this.current;
    if (tool instanceof SelectTool) return;
    this.stage.cursor = this.#cursor();
    if (tool instanceof BrushTool && tool.isDown) tool.up();
    else tool.down(this.stage.cursor);
    this.stage.invalidate(NOTHING);
  }

  #cursor() {
    const { width, height } = this.session().image;
    return this.stage.cursor ?? { x: width / 2, y: height / 2 };
  }

  #target() {
    const [id] = this.selected();
    if (this.tool === "eraser" || this.isVoid) return { id: 0, only: this.over === "void" ? id : undefined };
    if (this.newLabel) return { id: this.session().annotation.freeId, label: this.newLabel };
    if (id !== undefined) return { id };
    say("Select a segment to paint, or press W for a new one");
    return null;
  }

  #finished(step, target) {
    const isNew = step !== null && target.label !== undefined;
    if (isNew) this.newLabel = null;
    this.painted(step, isNew ? target.id : null);
  }
}
