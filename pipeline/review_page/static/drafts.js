/**
 * Drafts of images in the browser's own database: each step is there before the next one begins.
 *
 * A draft is the rows that the server gave, and the steps over them. It survives a closed tab and a
 * server that was killed, and is deleted once the server has said that the image is saved.
 *
 * @typedef {import("./annotation.js").Step} Step
 * @typedef {{key: string, image: any, parentRevision: number, done: number, saved: number | null,
 *   comment: string, seconds: number}} Draft
 *   `done` of the steps are in force, the first `saved` are in the parent revision
 */

const NAME = "maskformer-review";
const DRAFTS = "drafts";
const STEPS = "steps";

/** Stores the drafts of one table. */
export class Drafts {
  #opened = null;
  /** The writes go in the order of their calls. */
  #last = Promise.resolve();

  /** @param {string} table whose images the drafts are of */
  constructor(table) {
    this.table = table;
  }

  /**
   * Stores a draft and the steps from a number on; those behind them are deleted.
   *
   * @param {string} imageId
   * @param {Omit<Draft, "key">} draft
   * @param {Step[]} steps all steps
   * @param {number} from the first that may differ from what is stored
   * @returns {Promise<void>}
   */
  put(imageId, draft, steps, from) {
    const key = this.#key(imageId);
    const changed = steps.slice(from);
    return this.#write((drafts, stored) => {
      drafts.put({ ...draft, key });
      stored.delete(IDBKeyRange.bound([key, from], [key, Infinity]));
      changed.forEach((step, i) => stored.put(step, [key, from + i]));
    });
  }

  /**
   * Returns the draft of an image with its steps, or null.
   *
   * @param {string} imageId
   * @returns {Promise<{draft: Draft, steps: Step[]} | null>}
   */
  async get(imageId) {
    await this.#last;
    const key = this.#key(imageId);
    const transaction = (await this.#open()).transaction([DRAFTS, STEPS]);
    const [draft, steps] = await Promise.all([
      answer(transaction.objectStore(DRAFTS).get(key)),
      answer(transaction.objectStore(STEPS).getAll(IDBKeyRange.bound([key, 0], [key, Infinity]))),
    ]);
    return draft ? { draft, steps } : null;
  }

  /**
   * Deletes the draft of an image.
   *
   * @param {string} imageId
   */
  delete(imageId) {
    const key = this.#key(imageId);
    return this.#write((drafts, stored) => {
      drafts.delete(key);
      stored.delete(IDBKeyRange.bound([key, 0], [key, Infinity]));
    });
  }

  /** Returns the ids of the images of the table that have a draft. */
  async imageIds() {
    await this.#last;
    const transaction = (await this.#open()).transaction([DRAFTS]);
    const first = this.#key("");
    const keys = await answer(
      transaction.objectStore(DRAFTS).getAllKeys(IDBKeyRange.bound(first, `${first}\uffff`)),
    );
    return keys.map((key) => key.slice(first.length));
  }

  #key(imageId) {
    return `${this.table}\n${imageId}`;
  }

  #write(change) {
    const write = async () => {
      const transaction = (await this.#open()).transaction([DRAFTS, STEPS], "readwrite");
      const ended = completed(transaction);
      change(transaction.objectStore(DRAFTS), transaction.objectStore(STEPS));
      await ended;
    };
    const written = this.#last.then(write, write);
    // One that fails is told to its caller, and the next ones go on.
    this.#last = written.catch(() => {});
    return written;
  }

  #open() {
    this.#opened ??= new Promise((resolve, reject) => {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore(DRAFTS, { keyPath: "key" });
        request.result.createObjectStore(STEPS);
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    return this.#opened;
  }
}

function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function completed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(undefined);
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}
