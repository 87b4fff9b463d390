/** Loads photographs and segments of images, the next one before it is asked for. */

import { address, getJson } from "./api.js";

const KEPT_MS = 60_000;

/** Keeps one image that will probably be opened next. */
export class ImageLoader {
  #kept = null;

  /**
   * Loads an image to have it at hand.
   *
   * @param {string} imageId
   */
  prefetch(imageId) {
    if (this.#isKept(imageId)) return;
    const state = getJson("/api/segments", { image_id: imageId });
    state.catch(() => (this.#kept = null));
    const photo = new Image();
    photo.src = address("/api/photo", { image_id: imageId });
    this.#kept = { imageId, at: performance.now(), state, photo };
  }

  /**
   * Returns what the server knows of an image.
   *
   * @param {string} imageId
   * @returns {Promise<any>}
   */
  state(imageId) {
    const state = this.#isKept(imageId) ? this.#kept.state : getJson("/api/segments", { image_id: imageId });
    this.#kept = null; // once only: after a save it is out of date
    return state;
  }

  /**
   * Shows a photograph in an element.
   *
   * @param {string} imageId
   * @param {HTMLImageElement} picture
   * @throws {import("./api.js").ApiError} that says why there is none
   */
  async photo(imageId, picture) {
    const source = address("/api/photo", { image_id: imageId });
    picture.alt = `Photograph ${imageId}`;
    picture.src = source;
    try {
      await picture.decode();
    } catch {
      // Another image may have been opened meanwhile; else the answer of the server says why.
      if (picture.getAttribute("src") === source) await getJson("/api/photo", { image_id: imageId });
    }
  }

  #isKept(imageId) {
    return this.#kept?.imageId === imageId && performance.now() - this.#kept.at < KEPT_MS;
  }
}
