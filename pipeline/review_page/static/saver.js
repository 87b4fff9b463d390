/**
 * Saves images in the background, one after the other, until the server has them.
 *
 * What waits is in the drafts: a page that is closed before the server answers goes on with it the
 * next time.
 *
 * @typedef {{imageId: string, image: any, annotation: import("./annotation.js").Annotation,
 *   rows: any[], parentRevision: number, status: string, comment: string, seconds: number,
 *   operations: any[], steps: import("./annotation.js").Step[]}} Job `steps` are those in force
 * @typedef {{state: "saving" | "waiting" | "saved" | "conflict" | "refused", message: string,
 *   answer?: any, theirs?: any, job: Job}} Progress
 */

import { Annotation } from "./annotation.js";
import { ApiError, postJson, reason } from "./api.js";
import { encodedRows } from "./encoder.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 15000;

/** Sends revisions in the order in which they were saved. */
export class Saver {
  /** Saves that the server does not have yet, by image_id. @type {Map<string, Progress>} */
  progress = new Map();
  #last = Promise.resolve();

  /**
   * @param {{drafts: import("./drafts.js").Drafts, onProgress: (progress: Progress) => void}} of
   *   `onProgress` may return a promise, which is waited for before the next image is saved
   */
  constructor({ drafts, onProgress }) {
    this.drafts = drafts;
    this.onProgress = onProgress;
  }

  /**
   * Saves an image as it is now.
   *
   * @param {Omit<Job, "rows">} wanted
   * @returns {Promise<Progress>} when the server has answered
   */
  save(wanted) {
    const job = { ...wanted, rows: [] };
    // Asked for at once: the next stroke may come before the answer of the worker.
    const encoded = encodedRows(wanted.annotation);
    encoded.catch(() => {}); // told below, once it is this image's turn
    this.#tell({ state: "saving", message: "Saving…", job });
    const saved = this.#last.then(async () => {
      try {
        job.rows = await encoded;
      } catch (error) {
        return await this.#tell({ state: "refused", message: `Not saved: ${error.message}`, job });
      }
      return await this.#send(job);
    });
    this.#last = saved.then(() => {}, () => {});
    return saved;
  }

  /** Waits until nothing of an image is on its way. */
  async settled(imageId) {
    while (["saving", "waiting"].includes(this.progress.get(imageId)?.state ?? "")) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Saves what was on its way when the page was closed. */
  async resume() {
    for (const imageId of await this.drafts.imageIds()) {
      const stored = await this.drafts.get(imageId);
      if (!stored?.draft.pending || this.progress.has(imageId)) continue;
      const { image, parentRevision, done, pending } = stored.draft;
      const annotation = new Annotation(image);
      annotation.replay(stored.steps, done);
      const steps = stored.steps.slice(0, done);
      this.save({ imageId, image, annotation, parentRevision, steps, ...pending });
    }
  }

  async #send(job) {
    const body = {
      image_id: job.imageId,
      parent_revision: job.parentRevision,
      status: job.status,
      comment: job.comment || null,
      seconds: job.seconds,
      operations: job.operations,
      segments: job.rows,
    };
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
      try {
        const answer = await postJson("/api/revisions", body);
        return await this.#tell({ state: "saved", message: "", answer, job });
      } catch (error) {
        if (error instanceof ApiError && error.status === 409 && error.body?.theirs) {
          const message = "Someone else changed the same pixels";
          return await this.#tell({ state: "conflict", message, theirs: error.body.theirs, job });
        }
        if (error instanceof ApiError && !error.isTemporary && error.status !== 401) {
          return await this.#tell({ state: "refused", message: `Not saved: ${error.message}`, job });
        }
        await this.#tell({ state: "waiting", message: `Not saved yet: ${reason(error)}`, job });
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  async #tell(progress) {
    const { imageId } = progress.job;
    this.progress.set(imageId, progress);
    await this.onProgress(progress);
    // A map of ids is large: what is saved is let go.
    if (progress.state === "saved" && this.progress.get(imageId) === progress) this.progress.delete(imageId);
    return progress;
  }
}
