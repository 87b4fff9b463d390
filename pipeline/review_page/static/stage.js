/**
 * Shows a photograph with its overlay, zoomed and panned, and tells a tool of the pointer.
 *
 * @typedef {import("./rle.js").Box} Box
 * @typedef {import("./shapes.js").Point} Point
 * @typedef {{down(point: Point, event: PointerEvent): void, move(point: Point, event: PointerEvent): void,
 *   up(point: Point, event: PointerEvent): void, isPanning: boolean}} Tool points in pixels of the image
 */

import { byId } from "./dom.js";
import { Overlay } from "./overlay.js";

const LARGEST_SCALE = 40;
const CRISP_SCALE = 3;
const MARGIN = 16;
const CLICK_REACH = 4;

/** Holds the view of an image: how large it is, and where. */
export class Stage {
  #size = { width: 1, height: 1 };
  #view = { scale: 1, x: 0, y: 0 };
  #isFitted = true;
  #pan = null;
  #dirty = /** @type {Box[] | null} */ ([]);
  #frame = 0;
  /** Point that the keyboard moves. @type {Point | null} */
  cursor = null;

  /** @param {{tool: () => Tool, drawGuides: (context: CanvasRenderingContext2D, stage: Stage) => void}} of */
  constructor({ tool, drawGuides }) {
    this.root = byId("stage");
    this.photo = byId("photo");
    this.overlay = new Overlay(byId("overlay"));
    this.guides = byId("guides");
    this.tool = tool;
    this.drawGuides = drawGuides;
    new ResizeObserver(() => this.#resize()).observe(this.root);
    this.root.addEventListener("pointerdown", (event) => this.#down(event));
    this.root.addEventListener("pointermove", (event) => this.#move(event));
    this.root.addEventListener("pointerup", (event) => this.#up(event));
    this.root.addEventListener("pointercancel", (event) => this.#up(event));
    this.root.addEventListener("pointerleave", () => this.#leave());
    this.root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.root.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /**
   * Shows an image as a whole.
   *
   * @param {{width: number, height: number}} size
   */
  show(size) {
    this.#size = { width: size.width, height: size.height };
    this.photo.width = size.width;
    this.photo.height = size.height;
    this.#resize();
    this.fit();
  }

  /** Zooms so that the whole image is seen. */
  fit() {
    const { clientWidth, clientHeight } = this.root;
    const { width, height } = this.#size;
    const scale = Math.min((clientWidth - 2 * MARGIN) / width, (clientHeight - 2 * MARGIN) / height);
    this.#isFitted = true;
    this.#setView({
      scale: Math.min(Math.max(scale, 0.001), LARGEST_SCALE),
      x: (clientWidth - width * scale) / 2,
      y: (clientHeight - height * scale) / 2,
    });
  }

  /** Returns the size on the screen of a pixel of the image. */
  get scale() {
    return this.#view.scale;
  }

  /**
   * Zooms around a point of the screen, by default the middle.
   *
   * @param {number} factor
   * @param {Point | null} around
   */
  zoom(factor, around = null) {
    const { scale, x, y } = this.#view;
    const centre = around ?? { x: this.root.clientWidth / 2, y: this.root.clientHeight / 2 };
    const smallest = Math.min(0.05, (0.5 * this.root.clientWidth) / this.#size.width);
    const next = Math.min(Math.max(scale * factor, smallest), LARGEST_SCALE);
    const ratio = next / scale;
    this.#isFitted = false;
    this.#setView({
      scale: next,
      x: centre.x - (centre.x - x) * ratio,
      y: centre.y - (centre.y - y) * ratio,
    });
  }

  /** Moves the image on the screen. */
  pan(dx, dy) {
    this.#isFitted = false;
    this.#setView({ ...this.#view, x: this.#view.x + dx, y: this.#view.y + dy });
  }

  /**
   * Zooms to a box of the image, with some room around it.
   *
   * @param {Box} box
   */
  closeUp(box) {
    const { clientWidth, clientHeight } = this.root;
    const scale = Math.min(
      (0.7 * clientWidth) / box.width,
      (0.7 * clientHeight) / box.height,
      LARGEST_SCALE / 2,
    );
    this.#isFitted = false;
    this.#setView({
      scale,
      x: clientWidth / 2 - (box.x + box.width / 2) * scale,
      y: clientHeight / 2 - (box.y + box.height / 2) * scale,
    });
  }

  /** Returns the point of the image at a place in the window. */
  toImage({ clientX, clientY }) {
    const { left, top } = this.root.getBoundingClientRect();
    const { scale, x, y } = this.#view;
    return { x: (clientX - left - x) / scale, y: (clientY - top - y) / scale };
  }

  /** Returns the point of the stage at which a point of the image is seen. */
  toScreen(point) {
    const { scale, x, y } = this.#view;
    return { x: point.x * scale + x, y: point.y * scale + y };
  }

  /**
   * Draws the overlay again in the next frame.
   *
   * @param {Box | null} box that changed; null for all
   */
  invalidate(box = null) {
    if (box === null) this.#dirty = null;
    else this.#dirty?.push(box);
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.drawNow());
  }

  /** Draws what was said to have changed. */
  drawNow() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const dirty = this.#dirty;
    this.#dirty = [];
    if (dirty === null) this.overlay.draw();
    else for (const box of dirty) this.overlay.draw(box);
    const context = this.guides.getContext("2d");
    const ratio = window.devicePixelRatio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.root.clientWidth, this.root.clientHeight);
    this.drawGuides(context, this);
  }

  #setView(view) {
    this.#view = view;
    const ratio = window.devicePixelRatio;
    this.photo.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    this.photo.classList.toggle("crisp", view.scale >= CRISP_SCALE);
    this.overlay.view = { scale: view.scale * ratio, x: view.x * ratio, y: view.y * ratio };
    this.invalidate();
  }

  #resize() {
    const ratio = window.devicePixelRatio;
    const [width, height] = [this.root.clientWidth * ratio, this.root.clientHeight * ratio].map(Math.round);
    this.overlay.resize(width, height);
    this.guides.width = width;
    this.guides.height = height;
    if (this.#isFitted) this.fit();
    else this.invalidate();
  }

  #down(event) {
    if (event.button === 2 || this.overlay.map === null) return;
    this.root.setPointerCapture(event.pointerId);
    const isPanning = event.button === 1 || event.altKey || this.tool().isPanning;
    if (isPanning) {
      this.#pan = { x: event.clientX, y: event.clientY, hasMoved: false };
      event.preventDefault();
    } else {
      this.tool().down(this.toImage(event), event);
    }
  }

  #move(event) {
    this.cursor = this.toImage(event);
    if (this.#pan === null) {
      if (this.overlay.map !== null) this.tool().move(this.cursor, event);
      this.invalidate({ x: 0, y: 0, width: 0, height: 0 });
      return;
    }
    const [dx, dy] = [event.clientX - this.#pan.x, event.clientY - this.#pan.y];
    if (this.#pan.hasMoved || Math.hypot(dx, dy) > CLICK_REACH) {
      this.pan(dx, dy);
      this.#pan = { x: event.clientX, y: event.clientY, hasMoved: true };
    }
  }

  #up(event) {
    const pan = this.#pan;
    this.#pan = null;
    if (this.overlay.map === null) return;
    if (pan === null) this.tool().up(this.toImage(event), event);
    else if (!pan.hasMoved && event.button === 0 && !event.altKey) this.tool().down(this.toImage(event), event);
  }

  #leave() {
    if (this.#pan === null) {
      this.cursor = null;
      this.invalidate({ x: 0, y: 0, width: 0, height: 0 });
    }
  }

  #wheel(event) {
    event.preventDefault();
    if (event.shiftKey) {
      this.pan(-event.deltaX || -event.deltaY, event.deltaX ? -event.deltaY : 0);
      return;
    }
    const { left, top } = this.root.getBoundingClientRect();
    const around = { x: event.clientX - left, y: event.clientY - top };
    this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), around);
  }
}
