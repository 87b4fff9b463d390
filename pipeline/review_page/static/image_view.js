/** The view of one image: opens it, does what keys and buttons ask for, and hands it to the saver. */

import { boxOf } from "./annotation.js";
import { reason } from "./api.js";
import { Claims } from "./claims.js";
import { byId, setText } from "./dom.js";
import { Labelling } from "./labelling.js";
import { Legend } from "./legend.js";
import { ImageLoader } from "./loading.js";
import { dismiss, notify, say } from "./notices.js";
import { Painter } from "./painter.js";
import { segmentColour } from "./palette.js";
import { showDraftState, showRecent, showSelected, showState, showTools } from "./panel.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { Verdict } from "./verdict.js";
import { count } from "./words.js";

const NOTHING = { x: 0, y: 0, width: 0, height: 0 };
const ZOOM_STEP = 1.3;

/** Shows an image and lets a person correct it. */
export class ImageView {
  /** @type {Session | null} */
  session = null;
  #opening = 0;
  #selected = /** @type {number[]} */ ([]);

  /**
   * @param {{table: any, drafts: import("./drafts.js").Drafts, saver: import("./saver.js").Saver,
   *   go: (step: number, which?: {isUnreviewed: boolean}) => void, leave: () => void}} of
   *   `go` opens the next image or the one before
   */
  constructor({ table, drafts, saver, go, leave }) {
    Object.assign(this, { table, drafts, saver, go, leave });
    this.labels = new Map(table.labels.map((label) => [label.id, label]));
    this.stage = new Stage({
      tool: () => this.painter.current,
      drawGuides: (context, stage) => this.session && this.painter.current.drawGuides(context, stage),
    });
    this.painter = new Painter({
      stage: this.stage,
      session: () => this.session,
      selected: () => this.#selected,
      select: (id, isAdded) => this.select(id, isAdded),
      pointed: (id) => this.#showHint(id),
      painted: (step, newId) => this.#painted(step, newId),
      changed: () => this.session && this.#showTools(),
    });
    this.loader = new ImageLoader();
    this.labelling = new Labelling({
      table,
      session: () => this.session,
      selected: () => this.#selected,
      changed: (step) => this.#changed(step),
      usedLabel: () => this.#showTools(),
      paintNew: (label) => this.#paintNew(label),
    });
    this.verdict = new Verdict({
      saver,
      drafts,
      session: () => this.session,
      endPainting: () => this.painter.end(),
      go: (step) => this.go(step),
      openAgain: () => this.open(this.session.imageId, { position: byId("position").textContent }),
      colourOf: (segment) => this.#colourOf(segment),
    });
    this.legend = new Legend({
      select: (id, isAdded) => this.select(id, isAdded),
      hover: (id) => this.#hover(id),
    });
    this.claims = new Claims({
      onOthers: (names) => setText(byId("claim"), names.length ? `${names.join(", ")} is at it` : ""),
      reviewer: table.reviewer,
      canClaim: table.can_save,
    });
    setInterval(() => this.session && !document.hidden && (this.session.seconds += 1), 1000);
    this.#bindFields();
  }

  /**
   * Opens an image.
   *
   * @param {string} imageId
   * @param {{position: string}} of words for its place in the list
   */
  async open(imageId, { position }) {
    const started = performance.now();
    const opening = ++this.#opening;
    this.#leaveSession();
    setText(byId("image-name"), imageId);
    setText(byId("position"), position);
    byId("loading").hidden = false;
    try {
      await this.saver.settled(imageId);
      const photo = this.loader.photo(imageId, this.stage.photo);
      photo.then(() => dismiss("photo"), () => {});
      const session = await Session.open(imageId, { drafts: this.drafts, state: this.loader.state(imageId) });
      if (opening !== this.#opening) return;
      this.session = session;
      await photo.catch((error) => notify("photo", `The photograph cannot be shown: ${reason(error)}`));
      if (opening !== this.#opening) return;
      dismiss("open");
      this.#begin(session);
      performance.measure("image on screen", { start: started });
    } catch (error) {
      if (opening !== this.#opening) return;
      this.session = null;
      notify("open", `${imageId} cannot be opened: ${reason(error)}`, {
        does: "Try again",
        run: () => this.open(imageId, { position }),
      });
    } finally {
      if (opening === this.#opening) byId("loading").hidden = true;
    }
  }

  /** Leaves the image; its draft stays. */
  close() {
    this.#opening += 1;
    this.#leaveSession();
    this.claims.claim(null);
  }

  /**
   * Does what a key or a button names.
   *
   * @param {string} action
   * @param {string} key that was pressed, if any
   */
  do(action, key = "") {
    const session = this.session;
    if (action === "next") return this.go(1);
    if (action === "next-unreviewed") return this.go(1, { isUnreviewed: true });
    if (action === "back") return this.go(-1);
    if (action === "grid") return this.leave();
    if (session === null) return action === "escape" ? this.leave() : undefined;
    const { annotation } = session;
    const selected = [...this.#selected];
    switch (action) {
      case "accept": return this.verdict.accept({ goesOn: true });
      case "unusable": return this.verdict.reject();
      case "flag": return this.verdict.flag();
      case "save": return this.verdict.accept({ goesOn: false });
      case "relabel": return this.#enter(key);
      case "second": return this.labelling.takeSecond();
      case "delete": return this.#changed(selected.length ? annotation.delete(selected) : null);
      case "merge": return this.#changed(annotation.merge(selected));
      case "split": return this.#changed(selected.length === 1 ? annotation.split(selected[0]) : null);
      case "fill": return this.#changed(selected.length === 1 ? annotation.fillHoles(selected[0], this.painter.over) : null);
      case "new": return this.labelling.newSegment();
      case "undo": return this.#timeTravel(() => annotation.undo(), "Undone");
      case "redo": return this.#timeTravel(() => annotation.redo(), "Done again");
      case "select": case "brush": case "eraser": case "polygon": return this.painter.choose(action);
      case "void": this.painter.isVoid = !this.painter.isVoid; return this.#showTools();
      case "over": return this.#paintOver(this.painter.over === "void" ? "all" : "void");
      case "over-void": return this.#paintOver("void");
      case "over-all": return this.#paintOver("all");
      case "brush-size": return this.painter.resize(key === "]");
      case "pen": return this.painter.pen();
      case "outlines": byId("outlines").click(); return undefined;
      case "opacity": return this.#setOpacity(Number(byId("opacity").value) + (key === "}" ? 10 : -10));
      case "zoom": return this.stage.zoom(key === "-" ? 1 / ZOOM_STEP : ZOOM_STEP);
      case "fit": return this.stage.fit();
      case "close-up": return selected.length ? this.stage.closeUp(boxOf(annotation.segments.get(selected[0]))) : undefined;
      case "escape": return this.#escape();
      default: return undefined;
    }
  }

  /**
   * Uses a key that no binding names: arrows and digits.
   *
   * @param {string} key as `keyOf` names it
   * @returns {boolean} whether it was used
   */
  useKey(key) {
    if (this.session === null) return false;
    const [, shift, arrow] = /^(Shift\+)?(Arrow(?:Up|Down|Left|Right))$/.exec(key) ?? [];
    if (arrow && this.painter.hasCursor) {
      this.painter.moveCursor(arrow, shift ? 1 : 10);
    } else if (arrow === "ArrowDown" || arrow === "ArrowUp") {
      this.#selectNext(arrow === "ArrowDown" ? 1 : -1, Boolean(shift));
    } else if (arrow) {
      this.stage.pan(arrow === "ArrowLeft" ? 60 : -60, 0);
    } else if (/^[1-9]$/.test(key) && this.table.can_save) {
      this.labelling.useRecent(Number(key) - 1);
    } else return false;
    return true;
  }

  /** Hides the segments, or shows them again. */
  setHidden(isHidden) {
    byId("overlay").classList.toggle("unseen-canvas", isHidden);
  }

  /**
   * Selects a segment; void selects nothing.
   *
   * @param {number} id
   * @param {boolean} isAdded whether the others stay selected
   */
  select(id, isAdded) {
    if (id === 0) this.#selected = isAdded ? this.#selected : [];
    else if (!isAdded) this.#selected = [id];
    else if (this.#selected.includes(id)) this.#selected = this.#selected.filter((other) => other !== id);
    else this.#selected = [...this.#selected, id];
    if (id !== 0) this.painter.newLabel = null;
    this.#showSelection();
    const segment = this.session.annotation.segments.get(id);
    if (segment) say(`${segment.label} ${segment.segment_id} selected`);
  }

  // What follows is the open image.

  #leaveSession() {
    if (this.session !== null) this.painter.end();
    this.session = null;
    this.#selected = [];
    this.painter.reset();
    this.stage.overlay.map = null;
    this.stage.photo.removeAttribute("src");
    this.stage.invalidate();
    for (const id of ["badge", "save-state", "claim", "comment"]) setText(byId(id), "");
    byId("legend").replaceChildren();
  }

  #begin(session) {
    const { image } = session;
    this.stage.overlay.map = session.annotation.map;
    this.stage.show({ width: image.width, height: image.height });
    this.painter.setRadius(Math.max(image.width, image.height) / 60);
    this.painter.choose("select");
    this.#showSegments();
    this.stage.drawNow();
    showState(session, undefined);
    if (session.isRestored) {
      const behind = session.newestRevision > session.parentRevision ? " Someone has saved this image since." : "";
      notify("draft", `Your draft of this image is here again.${behind}`);
    } else dismiss("draft");
    this.claims.claim(session.imageId);
    byId("stage").focus({ preventScroll: true });
  }

  #colourOf(segment) {
    return segmentColour(this.labels.get(segment.label_id)?.color ?? [128, 128, 128], segment.segment_id);
  }

  #showSegments() {
    const { annotation, image } = this.session;
    const rows = annotation.rows;
    this.#selected = this.#selected.filter((id) => annotation.segments.has(id));
    this.stage.overlay.setColours(new Map(rows.map((row) => [row.segment_id, this.#colourOf(row)])));
    this.legend.show(rows, {
      pixels: image.width * image.height,
      colourOf: (segment) => this.#colourOf(segment),
    });
    this.#showSelection();
  }

  #showSelection() {
    const { annotation, image } = this.session;
    this.stage.overlay.setSelected(this.#selected);
    this.stage.invalidate();
    this.legend.setSelected(this.#selected);
    showSelected(this.#selected.map((id) => annotation.segments.get(id)), {
      pixels: image.width * image.height,
      canUndo: annotation.done > 0,
      canRedo: annotation.done < annotation.steps.length,
    });
    this.#showTools();
  }

  #showTools() {
    const { tool, over, radius, target } = this.painter;
    showTools({ tool, over, radius, target });
    showRecent(this.labelling.recent, (place) => this.labelling.useRecent(place));
    this.#showHint(0);
    this.stage.root.dataset.tool = tool;
    this.stage.invalidate(NOTHING);
  }

  /** Shows what lies below the pointer, or what the tool does. */
  #showHint(id) {
    const segment = this.session?.annotation.segments.get(id);
    const score = segment && segment.score !== null ? ` · ${segment.score.toFixed(2)}` : "";
    setText(byId("hint"), segment ? `${segment.label} ${id}${score}` : this.painter.current.hint);
  }

  #hover(id) {
    if (this.session === null) return;
    this.stage.overlay.setSelected(id === null ? this.#selected : [id]);
    this.stage.invalidate();
  }

  /** Takes over a step: stores it and shows it. */
  #changed(step) {
    if (!step) return;
    this.#storeDraft();
    say(`${step.operation.kind}: ${count(step.operation.pixels)} pixels`);
  }

  #timeTravel(travel, words) {
    this.painter.end();
    const step = travel();
    if (step === null) return;
    this.#storeDraft();
    say(`${words}: ${step.operation.kind}`);
  }

  /** Stores what the segments are now, shows them, and says so once they are stored. */
  #storeDraft() {
    const session = this.session;
    const stored = session
      .store()
      .catch((error) => notify("draft", `The draft could not be stored: ${error.message}`));
    this.#showSegments();
    showState(session, undefined);
    stored.then(() => this.session === session && showDraftState(session));
  }

  // What follows is painting and choosing.

  #enter(key) {
    if (key === "Enter" && this.painter.closePolygon()) return undefined;
    return this.#selected.length ? this.labelling.relabel() : undefined;
  }

  #paintNew(label) {
    this.#selected = [];
    this.painter.paintNew(label);
    this.#showSelection();
  }

  #painted(step, newId) {
    this.#changed(step);
    if (newId === null) return;
    this.#selected = [newId];
    this.#showSelection();
  }

  #paintOver(over) {
    this.painter.over = over;
    this.#showTools();
  }

  #setOpacity(percentage) {
    byId("opacity").value = String(percentage);
    this.stage.overlay.opacity = Number(byId("opacity").value) / 100;
    this.stage.overlay.updatePalette();
    this.stage.invalidate();
  }

  #escape() {
    if (this.painter.end()) return;
    if (this.painter.tool !== "select") this.painter.choose("select");
    else if (this.#selected.length > 0) this.select(0, false);
    else this.leave();
  }

  #selectNext(step, isAdded) {
    const { order } = this.legend;
    if (order.length === 0) return;
    const at = order.indexOf(this.#selected[this.#selected.length - 1]);
    const next = at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length;
    if (isAdded && this.#selected.includes(order[next])) return;
    this.select(order[next], isAdded);
  }

  #bindFields() {
    byId("opacity").addEventListener("input", () => this.#setOpacity(Number(byId("opacity").value)));
    this.#setOpacity(Number(byId("opacity").value));
    byId("outlines").addEventListener("change", () => {
      this.stage.overlay.hasOutlines = byId("outlines").checked;
      this.stage.invalidate();
    });
    byId("brush-size").addEventListener("input", () => this.painter.setRadius(Number(byId("brush-size").value)));
  }
}
