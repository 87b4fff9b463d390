/** The images of a query, of which only the parts that were asked for are loaded. */

import { getJson } from "./api.js";

const CHUNK = 120;
const MOST_CHUNKS = 60;

/** Loads images by their place in an order, a part at a time. */
export class ImageList {
  /** Number of images, null until the first part is here. @type {number | null} */
  total = null;
  /** Version of the table that the parts are of. @type {string | null} */
  version = null;
  #chunks = new Map();

  /**
   * @param {Record<string, string>} query parameters of `/api/images` but offset and limit
   * @param {{onNewVersion?: () => void}} of is called once other parts than before are shown
   */
  constructor(query, { onNewVersion = () => {} } = {}) {
    this.query = query;
    this.onNewVersion = onNewVersion;
  }

  /** Forgets the parts that are loaded: the next ones are of the table as it is then. */
  forget() {
    this.#chunks.clear();
  }

  /**
   * Returns an image if it is loaded, else null.
   *
   * @param {number} place
   */
  loaded(place) {
    const chunk = this.#chunks.get(Math.floor(place / CHUNK));
    return Array.isArray(chunk) ? (chunk[place % CHUNK] ?? null) : null;
  }

  /**
   * Returns an image, or null where the order has none at that place.
   *
   * @param {number} place
   * @returns {Promise<any>}
   */
  async at(place) {
    if (place < 0 || (this.total !== null && place >= this.total)) return null;
    const chunk = await this.#chunk(Math.floor(place / CHUNK));
    return chunk[place % CHUNK] ?? null;
  }

  /**
   * Loads the images between two places.
   *
   * @param {number} from
   * @param {number} to
   */
  async load(from, to) {
    const first = Math.floor(Math.max(from, 0) / CHUNK);
    const last = Math.floor(Math.max(to - 1, 0) / CHUNK);
    await Promise.all(Array.from({ length: last - first + 1 }, (_, i) => this.#chunk(first + i)));
  }

  /**
   * Takes over what is new of an image.
   *
   * @param {string} imageId
   * @param {Record<string, any>} changes
   */
  update(imageId, changes) {
    for (const chunk of this.#chunks.values()) {
      if (!Array.isArray(chunk)) continue;
      for (const image of chunk) if (image.image_id === imageId) Object.assign(image, changes);
    }
  }

  async #chunk(number) {
    if (!this.#chunks.has(number)) {
      this.#chunks.set(number, this.#fetch(number));
      for (const old of this.#chunks.keys()) {
        if (this.#chunks.size <= MOST_CHUNKS) break;
        if (old !== number) this.#chunks.delete(old);
      }
    }
    return await this.#chunks.get(number);
  }

  async #fetch(number) {
    try {
      const range = { offset: number * CHUNK, limit: CHUNK };
      const { total, images, version } = await getJson("/api/images", { ...this.query, ...range });
      // Places of two versions differ: parts of the other one would show images twice, or never.
      const isOther = this.version !== null && version !== this.version;
      if (isOther) this.forget();
      this.version = version;
      this.total = total;
      this.#chunks.set(number, images);
      if (isOther) this.onNewVersion();
      return images;
    } catch (error) {
      this.#chunks.delete(number);
      throw error;
    }
  }
}
