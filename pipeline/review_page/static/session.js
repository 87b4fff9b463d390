/**
 * One open image: its annotation, the revision it began with, and its draft.
 *
 * @typedef {import("./annotation.js").Step} Step
 */

import { Annotation } from "./annotation.js";

/** Holds an image while it is reviewed; each change is in the drafts before the next one. */
export class Session {
  /** Seconds that the image was looked at. */
  seconds = 0;
  /** Whether a draft of an earlier time was found. */
  isRestored = false;
  /** What became of the last change. @type {"storing" | "kept" | "lost"} */
  draftState = "kept";
  /** Steps that the parent revision holds. @type {Step[]} */
  #saved = [];
  #stored = 0;
  #lastStore = 0;

  /**
   * @param {any} state what `/api/segments` gave
   * @param {import("./drafts.js").Drafts} drafts
   */
  constructor(state, drafts) {
    this.imageId = state.image_id;
    this.image = state;
    this.drafts = drafts;
    this.annotation = new Annotation(state);
    this.parentRevision = state.revision;
    this.status = state.status;
    this.comment = state.comment ?? "";
    this.reviewer = state.reviewer;
    this.savedAt = state.created_at;
    this.isStale = state.is_stale;
    this.newestRevision = state.revision;
  }

  /**
   * Opens an image with the draft of it, if there is one.
   *
   * @param {string} imageId
   * @param {{drafts: import("./drafts.js").Drafts, state: Promise<any>}} of `state` is what
   *   `/api/segments` answers
   * @returns {Promise<Session>}
   */
  static async open(imageId, { drafts, state }) {
    const [newest, stored] = await Promise.all([state, drafts.get(imageId)]);
    if (stored === null) return new Session(newest, drafts);
    const { draft, steps } = stored;
    if (draft.done === draft.saved && steps.length === draft.done) {
      await drafts.delete(imageId);
      return new Session(newest, drafts);
    }
    const session = new Session(draft.image, drafts);
    session.annotation.replay(steps, draft.done);
    session.parentRevision = draft.parentRevision;
    session.newestRevision = newest.revision;
    session.seconds = draft.seconds;
    session.isRestored = true;
    session.#stored = steps.length;
    if (draft.saved !== null) session.#saved = steps.slice(0, draft.saved);
    return session;
  }

  /** Tells whether something differs from the parent revision. */
  get hasChanges() {
    const { steps, done } = this.annotation;
    return done !== this.#saved.length || this.#saved.some((step, i) => step !== steps[i]);
  }

  /** Tells whether a person has changed anything since the model. */
  get isCorrected() {
    return this.hasChanges || this.status === "corrected";
  }

  /** Returns the operations since the parent revision; what was taken back is an `undo`. */
  get operations() {
    const { steps, done } = this.annotation;
    let common = 0;
    while (common < Math.min(done, this.#saved.length) && steps[common] === this.#saved[common]) common += 1;
    const undone = this.#saved.slice(common).reverse();
    return [
      ...undone.map(({ operation }) => ({ ...operation, kind: "undo" })),
      ...steps.slice(common, done).map(({ operation }) => operation),
    ];
  }

  /**
   * Stores the draft; call it after each change.
   *
   * @param {{status: string, comment: string, seconds: number, operations: any[]} | null} pending what
   *   is on its way to the server
   * @returns {Promise<void>}
   */
  async store(pending = null) {
    const { steps, done } = this.annotation;
    // A new step is the last one, in the place of what was undone before it.
    const firstChanged = done === steps.length ? Math.max(done - 1, 0) : steps.length;
    const from = Math.min(this.#stored, firstChanged);
    this.#stored = steps.length;
    const number = (this.#lastStore += 1);
    this.draftState = "storing";
    try {
      await this.drafts.put(this.imageId, this.#draft(pending), steps, from);
      if (number === this.#lastStore) this.draftState = "kept";
    } catch (error) {
      this.#stored = 0;
      this.draftState = "lost";
      throw error;
    }
  }

  /**
   * Takes over that a save has been answered.
   *
   * @param {{revision: number, reviewer: string, created_at: string}} answer
   * @param {{steps: Step[], status: string, comment: string}} sent `steps` that were in force then
   */
  async wasSaved(answer, { steps, status, comment }) {
    this.parentRevision = answer.revision;
    this.newestRevision = answer.revision;
    this.#saved = steps;
    this.status = status;
    this.comment = comment;
    this.reviewer = answer.reviewer;
    this.savedAt = answer.created_at;
    this.isStale = false;
    if (this.hasChanges) await this.store();
    else await this.drafts.delete(this.imageId);
    if (!this.hasChanges) this.#stored = 0;
  }

  #draft(pending) {
    const { steps, done } = this.annotation;
    const isPrefix = this.#saved.every((step, i) => step === steps[i]);
    return {
      image: this.image,
      parentRevision: this.parentRevision,
      done,
      saved: isPrefix ? this.#saved.length : null,
      comment: this.comment,
      seconds: this.seconds,
      pending,
    };
  }
}
