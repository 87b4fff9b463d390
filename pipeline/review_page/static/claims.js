/** Tells the server which image is open here, and who else is at it. */

import { getJson, postJson } from "./api.js";

const EVERY_MS = 30_000;

/** Holds a soft claim of one image: it only tells others. */
export class Claims {
  #imageId = null;
  #timer = 0;

  /** @param {{onOthers: (names: string[]) => void, reviewer: string | null, canClaim: boolean}} of */
  constructor({ onOthers, reviewer, canClaim }) {
    this.onOthers = onOthers;
    this.reviewer = reviewer;
    this.canClaim = canClaim;
  }

  /**
   * Claims an image in place of the last one.
   *
   * @param {string | null} imageId null where none is open
   */
  async claim(imageId) {
    clearTimeout(this.#timer);
    const last = this.#imageId;
    this.#imageId = imageId;
    if (this.canClaim && last !== null) {
      postJson("/api/claims", { image_id: last, release: true }).catch(() => {});
    }
    this.onOthers([]);
    if (imageId !== null) await this.#renew(imageId);
  }

  async #renew(imageId) {
    try {
      const answer = this.canClaim
        ? await postJson("/api/claims", { image_id: imageId })
        : await getJson("/api/claims", { image_id: imageId });
      const names = answer.claims.map(({ reviewer }) => reviewer);
      if (this.#imageId === imageId) this.onOthers(names.filter((name) => name !== this.reviewer));
    } catch {
      // A claim is only a hint; without a server there is nobody to tell.
    }
    if (this.#imageId === imageId) this.#timer = setTimeout(() => this.#renew(imageId), EVERY_MS);
  }
}
