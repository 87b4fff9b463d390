/**
 * What the pointer does in the image: select, brush, eraser, polygon.
 *
 * @typedef {import("./shapes.js").Point} Point
 * @typedef {{annotation: () => import("./annotation.js").Annotation, stage: import("./stage.js").Stage,
 *   paintTarget: (() => {id: number, label?: any, only?: number} | null),
 *   over: () => "void" | "all", radius: () => number,
 *   select: (id: number, isAdded: boolean) => void, pointed: (id: number) => void,
 *   finished: (step: import("./annotation.js").Step | null, target: any) => void}} Surroundings
 */

import { brushSpans, polygonSpans } from "./shapes.js";

const CLOSE_REACH = 8;
const DASH = [6, 4];

/** Selects the segment below a click; drags move the image. */
export class SelectTool {
  isPanning = true;
  hint = "Click a segment. Drag to move, wheel to zoom. Shift adds to the selection.";

  /** @param {Surroundings} around */
  constructor(around) {
    this.around = around;
  }

  down(point, event) {
    const id = this.around.annotation().map.at(point.x, point.y);
    this.around.select(id, event.shiftKey || event.ctrlKey || event.metaKey);
  }

  move(point) {
    this.around.pointed(this.around.annotation().map.at(point.x, point.y));
  }

  up() {}
  cancel() {
    return false;
  }

  drawGuides() {}
}

/** Paints discs along the pointer's way. */
export class BrushTool {
  isPanning = false;
  hint = "Drag to paint. [ and ] change the size, Alt-drag moves the image.";
  #last = null;
  #target = null;

  /**
   * @param {Surroundings} around
   * @param {{isEraser: boolean}} kind
   */
  constructor(around, { isEraser }) {
    this.around = around;
    this.isEraser = isEraser;
  }

  /** Tells whether a stroke is open. */
  get isDown() {
    return this.#last !== null;
  }

  down(point) {
    const target = this.around.paintTarget();
    if (target === null) return;
    this.#target = target;
    this.around.annotation().beginStroke({
      ...target,
      kind: target.id === 0 ? "erase" : "draw",
      over: target.id === 0 ? "all" : this.around.over(),
    });
    this.#last = point;
    this.#paint(point);
  }

  move(point) {
    if (this.#last !== null) this.#paint(point);
  }

  up() {
    if (this.#last === null) return;
    this.#last = null;
    this.around.finished(this.around.annotation().endStroke(), this.#target);
  }

  cancel() {
    const wasDown = this.isDown;
    this.up();
    return wasDown;
  }

  drawGuides(context, stage) {
    if (stage.cursor === null) return;
    const { x, y } = stage.toScreen(stage.cursor);
    ring(context, { x, y, radius: Math.max(this.around.radius() * stage.scale, 1) });
  }

  #paint(point) {
    const started = performance.now();
    const { width, height } = this.around.annotation().map;
    const spans = brushSpans(this.#last, point, { radius: this.around.radius(), width, height });
    const box = this.around.annotation().paint(spans);
    this.#last = point;
    if (box === null) return;
    this.around.stage.invalidate(box);
    this.around.stage.drawNow();
    performance.measure("brush move", { start: started });
  }
}

/** Fills a polygon whose corners are clicked. */
export class PolygonTool {
  isPanning = false;
  hint = "Click the corners. Enter or a click on the first corner closes, Esc takes it away.";
  /** @type {Point[]} */
  corners = [];

  /** @param {Surroundings} around */
  constructor(around) {
    this.around = around;
  }

  down(point) {
    const { stage } = this.around;
    const first = this.corners[0];
    if (first && this.corners.length > 2) {
      const [a, b] = [stage.toScreen(first), stage.toScreen(point)];
      if (Math.hypot(a.x - b.x, a.y - b.y) <= CLOSE_REACH) {
        this.close();
        return;
      }
    }
    if (this.around.paintTarget() === null) return;
    this.corners.push(point);
    stage.invalidate({ x: 0, y: 0, width: 0, height: 0 });
  }

  move() {}
  up() {}

  /** Fills the polygon; returns False where it has fewer than three corners. */
  close() {
    const corners = this.corners;
    this.cancel();
    const target = corners.length > 2 ? this.around.paintTarget() : null;
    if (target === null) return false;
    const annotation = this.around.annotation();
    const spans = polygonSpans(corners, annotation.map);
    annotation.beginStroke({
      ...target,
      kind: target.id === 0 ? "erase" : "draw",
      over: target.id === 0 ? "all" : this.around.over(),
    });
    annotation.paint(spans);
    this.around.finished(annotation.endStroke(), target);
    return true;
  }

  cancel() {
    const hadCorners = this.corners.length > 0;
    this.corners = [];
    this.around.stage.invalidate({ x: 0, y: 0, width: 0, height: 0 });
    return hadCorners;
  }

  drawGuides(context, stage) {
    const points = this.corners.map((corner) => stage.toScreen(corner));
    if (stage.cursor !== null) points.push(stage.toScreen(stage.cursor));
    for (const [colour, dash] of [["black", []], ["white", DASH]]) {
      context.strokeStyle = colour;
      context.lineWidth = 1.5;
      context.setLineDash(dash);
      context.beginPath();
      points.forEach(({ x, y }) => context.lineTo(x, y));
      if (points.length > 2) context.closePath();
      context.stroke();
    }
    context.setLineDash([]);
    for (const { x, y } of points) ring(context, { x, y, radius: 4 });
  }
}

/** Draws a circle that is seen on any ground. */
function ring(context, { x, y, radius }) {
  for (const [colour, width] of [["black", 3], ["white", 1.25]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}
