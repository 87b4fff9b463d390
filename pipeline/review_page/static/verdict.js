/** Saves what a person says of the open image: accepted, corrected, unusable or flagged. */

import { choose } from "./conflict.js";
import { byId } from "./dom.js";
import { dismiss, notify, say } from "./notices.js";
import { showState } from "./panel.js";
import { STATUS_WORDS, clock } from "./words.js";

/** Hands the open image to the saver, and shows what became of it. */
export class Verdict {
  /**
   * @param {{saver: import("./saver.js").Saver, drafts: import("./drafts.js").Drafts,
   *   session: () => any, endPainting: () => void, go: (step: number) => void,
   *   openAgain: () => Promise<void>, colourOf: (segment: any) => any}} of
   */
  constructor({ saver, drafts, session, endPainting, go, openAgain, colourOf }) {
    Object.assign(this, { saver, drafts, session, endPainting, go, openAgain, colourOf });
  }

  /**
   * Saves the image as accepted, or as corrected where something was changed.
   *
   * @param {{goesOn: boolean}} of whether the next image is opened
   */
  accept({ goesOn }) {
    this.#save(this.session().isCorrected ? "corrected" : "accepted", { goesOn });
  }

  /** Saves the image as unusable, and opens the next one. */
  reject() {
    this.#save("unusable", { goesOn: true });
  }

  /** Asks for a comment, saves the image with it, and opens the next one. */
  async flag() {
    const dialog = byId("flag");
    const session = this.session();
    byId("flag-comment").value = session.comment;
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    if (dialog.returnValue !== "flag" || this.session() !== session) return;
    session.comment = byId("flag-comment").value.trim();
    this.#save("flagged", { goesOn: true });
  }

  /** Takes over how a save went, and tells whether it is of the open image. */
  async saveWent(progress) {
    const session = this.session();
    if (session === null || session.imageId !== progress.job.imageId) return false;
    if (progress.state === "saved") {
      const { answer, job } = progress;
      if (answer.merged_with && !job.annotation.isPainting && !hasNewSteps(session, job)) {
        await this.drafts.delete(session.imageId);
        await this.openAgain();
        const names = answer.merged_with.map(({ reviewer }) => reviewer).join(", ");
        notify("draft", `Your changes were joined with those of ${names}.`);
      } else {
        await session.wasSaved(answer, job);
      }
      say(`saved at ${clock(answer.created_at)} by ${answer.reviewer}`);
    }
    if (this.session() === session) showState(session, progress);
    return true;
  }

  /** Shows two reviews side by side and does what is chosen. */
  async settle(progress) {
    const { theirs, job } = progress;
    const yours = { height: job.image.height, width: job.image.width, status: job.status, segments: job.rows };
    const coloursOf = (segments) => new Map(segments.map((segment) => [segment.segment_id, this.colourOf(segment)]));
    const choice = await choose({ imageId: job.imageId, theirs, yours, coloursOf });
    if (choice === null) return;
    dismiss(`conflict ${job.imageId}`);
    if (choice === "yours") {
      await this.saver.save({ ...job, parentRevision: theirs.revision });
    } else {
      await this.drafts.delete(job.imageId);
      this.saver.progress.delete(job.imageId);
    }
    if (this.session()?.imageId === job.imageId && choice === "theirs") await this.openAgain();
  }

  #save(status, { goesOn }) {
    const session = this.session();
    this.endPainting();
    const { annotation } = session;
    const wanted = { status, comment: session.comment, seconds: session.seconds, operations: session.operations };
    session.store(wanted).catch((error) => notify("draft", `The draft could not be stored: ${error.message}`));
    this.saver.save({
      imageId: session.imageId,
      image: session.image,
      annotation,
      parentRevision: session.parentRevision,
      steps: annotation.steps.slice(0, annotation.done),
      ...wanted,
    });
    say(`${STATUS_WORDS[status]}, saving`);
    if (goesOn) this.go(1);
  }
}

/** Tells whether something was changed after a save was asked for. */
function hasNewSteps(session, job) {
  const { steps, done } = session.annotation;
  return done !== job.steps.length || job.steps.some((step, i) => step !== steps[i]);
}
