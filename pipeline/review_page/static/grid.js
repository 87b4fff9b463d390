/** The grid of images, of which only the rows in view are elements. */

import { address, reason } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { notify, dismiss } from "./notices.js";
import { DRAFT_WORD, STATUS_WORDS, clock, percent } from "./words.js";

const TILE_WIDTH = 220;
const CAPTION_HEIGHT = 46;
const GAP = 12;
const ROWS_AROUND = 2;
const PICTURE_DELAY_MS = 60;
const THUMBNAIL_PIXELS = 320;
// Browsers lay out no more than some 30 million pixels.
const TALLEST = 20_000_000;

/** Shows an `ImageList` and moves a cursor over it. */
export class Grid {
  /** @type {import("./image_list.js").ImageList | null} */
  #list = null;
  #tiles = new Map();
  #columns = 1;
  #tile = { width: TILE_WIDTH, height: TILE_WIDTH };
  #cursor = 0;
  #pictures = 0;
  #hasOverlay = true;
  #drafts = /** @type {Set<string>} */ (new Set());

  /** @param {{hrefOf: (imageId: string, place: number) => string}} of */
  constructor({ hrefOf }) {
    this.hrefOf = hrefOf;
    this.root = byId("grid");
    this.rows = byId("grid-rows");
    this.root.addEventListener("scroll", () => this.#render(), { passive: true });
    this.root.addEventListener("keydown", (event) => this.#key(event));
    this.rows.addEventListener("focusin", (event) => this.#focused(event));
    new ResizeObserver(() => this.#layout()).observe(this.root);
  }

  /**
   * Shows a list from its begin, or with an image of it in view.
   *
   * @param {import("./image_list.js").ImageList} list
   * @param {{place: number, drafts: Set<string>}} of `drafts` are the images with a draft here
   */
  async show(list, { place, drafts }) {
    this.#list = list;
    this.#drafts = drafts;
    this.#cursor = place;
    try {
      await list.load(place, place + 1);
      dismiss("grid");
    } catch (error) {
      if (this.#list === list) notify("grid", `The images could not be listed: ${reason(error)}`);
      return;
    }
    if (this.#list !== list) return;
    this.#cursor = Math.min(place, Math.max((list.total ?? 1) - 1, 0));
    this.#clear();
    this.#layout();
    this.root.scrollTop = this.#topOf(this.#cursor) - this.root.clientHeight / 3;
    this.#render();
  }

  /** Moves the keyboard's focus to the image under the cursor. */
  focus() {
    this.#tiles.get(this.#cursor)?.link.focus({ preventScroll: true });
  }

  /** @param {boolean} isShown whether thumbnails have segments over them */
  setOverlay(isShown) {
    this.#hasOverlay = isShown;
    for (const tile of this.#tiles.values()) tile.shown = null;
    this.#clear();
    this.#render();
  }

  /**
   * Shows what is new of the images in view.
   *
   * @param {string} imageId that has been saved: it has no draft any more
   */
  refresh(imageId) {
    this.#drafts.delete(imageId);
    for (const tile of this.#tiles.values()) if (tile.imageId === imageId) tile.shown = null;
    this.#render();
  }

  /** Shows the list as it is now, where it is scrolled to: the table has changed. */
  update() {
    for (const tile of this.#tiles.values()) tile.shown = null;
    this.#layout();
  }

  #clear() {
    this.rows.replaceChildren();
    this.#tiles.clear();
  }

  #layout() {
    const total = this.#list?.total ?? 0;
    const width = this.root.clientWidth - 2 * GAP;
    if (width <= 0) return;
    this.#columns = Math.max(1, Math.floor((width + GAP) / (TILE_WIDTH + GAP)));
    const tileWidth = Math.floor((width + GAP) / this.#columns) - GAP;
    this.#tile = { width: tileWidth, height: Math.round(tileWidth * 0.72) + CAPTION_HEIGHT };
    this.rows.style.height = `${Math.min(this.#fullHeight(total), TALLEST)}px`;
    for (const [place, { root }] of this.#tiles) this.#position(root, place);
    this.#render();
  }

  #fullHeight(total) {
    return Math.ceil(total / this.#columns) * (this.#tile.height + GAP) + GAP;
  }

  /** Returns pixels of the list for each pixel of the scroll bar: above 1 where the list is too tall. */
  #stretch() {
    const full = this.#fullHeight(this.#list?.total ?? 0);
    const view = this.root.clientHeight;
    return full <= TALLEST ? 1 : (full - view) / (TALLEST - view);
  }

  #topOf(place) {
    return (Math.floor(place / this.#columns) * (this.#tile.height + GAP) + GAP) / this.#stretch();
  }

  #position(root, place) {
    const column = place % this.#columns;
    const row = Math.floor(place / this.#columns);
    const scrolled = this.root.scrollTop;
    const top = row * (this.#tile.height + GAP) + GAP - scrolled * (this.#stretch() - 1);
    root.style.transform = `translate(${GAP + column * (this.#tile.width + GAP)}px, ${top}px)`;
    root.style.width = `${this.#tile.width}px`;
    root.style.height = `${this.#tile.height}px`;
  }

  #render() {
    const list = this.#list;
    if (list === null || list.total === null || this.root.clientHeight === 0) return;
    const rowHeight = this.#tile.height + GAP;
    const top = this.root.scrollTop * this.#stretch();
    const firstRow = Math.max(0, Math.floor(top / rowHeight) - ROWS_AROUND);
    const lastRow = Math.ceil((top + this.root.clientHeight) / rowHeight) + ROWS_AROUND;
    const from = firstRow * this.#columns;
    const to = Math.min(list.total, lastRow * this.#columns);
    for (const [place, { root, picture }] of this.#tiles) {
      if (place >= from && place < to) continue;
      picture.removeAttribute("src"); // no picture is loaded that nobody sees
      root.remove();
      this.#tiles.delete(place);
    }
    let isMissing = false;
    for (let place = from; place < to; place++) {
      if (!this.#tiles.has(place)) this.#add(place);
      const tile = this.#tiles.get(place);
      this.#position(tile.root, place);
      const image = list.loaded(place);
      if (image === null) isMissing = true;
      else this.#fill(tile, image, place);
    }
    if (isMissing) {
      list.load(from, to).then(
        () => this.#list === list && this.#render(),
        (error) => notify("grid", `The images could not be listed: ${reason(error)}`),
      );
    }
    clearTimeout(this.#pictures);
    this.#pictures = setTimeout(() => this.#loadPictures(), PICTURE_DELAY_MS);
  }

  #add(place) {
    const picture = element("img", { alt: "", decoding: "async", draggable: "false" });
    const name = element("span.tile-name");
    const facts = element("span.tile-facts");
    const badge = element("span.badge");
    const link = element(
      "a.tile",
      { tabindex: place === this.#cursor ? 0 : -1 },
      element("span.tile-picture", {}, picture, badge),
      name,
      facts,
    );
    const root = element(
      "div.tile-place",
      { role: "listitem", "aria-posinset": place + 1, "aria-setsize": this.#list?.total, "data-place": place },
      link,
    );
    // In the order of the list, for Tab and for screen readers.
    const next = [...this.rows.children].find((other) => Number(other.dataset.place) > place);
    this.rows.insertBefore(root, next ?? null);
    this.#tiles.set(place, { root, link, picture, name, facts, badge, shown: null });
  }

  #fill(tile, image, place) {
    const key = `${image.image_id}\n${image.revision}\n${image.status}`;
    if (tile.shown === key) return;
    tile.shown = key;
    tile.imageId = image.image_id;
    tile.revision = image.revision;
    tile.link.href = this.hrefOf(image.image_id, place);
    setText(tile.name, image.image_id);
    tile.name.title = image.image_id;
    setText(tile.facts, factsOf(image, this.#list.query.sort));
    const status = this.#drafts.has(image.image_id) ? "draft" : image.is_stale ? "stale" : (image.status ?? "");
    setText(tile.badge, status === "draft" ? DRAFT_WORD : (STATUS_WORDS[status] ?? ""));
    tile.badge.dataset.status = status;
    tile.picture.classList.toggle("wide", image.width / image.height > 1 / 0.72);
    tile.picture.removeAttribute("src");
  }

  #loadPictures() {
    for (const { picture, imageId, revision } of this.#tiles.values()) {
      if (imageId !== undefined && !picture.hasAttribute("src")) {
        const overlay = this.#hasOverlay ? 1 : 0;
        const parameters = { image_id: imageId, overlay, size: THUMBNAIL_PIXELS, revision };
        picture.src = address("/api/thumbnail", parameters);
      }
    }
  }

  #focused(event) {
    const place = Number(event.target.closest("[data-place]").dataset.place);
    this.#tiles.get(this.#cursor)?.link.setAttribute("tabindex", "-1");
    this.#cursor = place;
    this.#tiles.get(place).link.setAttribute("tabindex", "0");
  }

  #key(event) {
    const page = this.#columns * Math.max(1, Math.floor(this.root.clientHeight / (this.#tile.height + GAP)));
    const total = this.#list?.total ?? 0;
    const steps = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: this.#columns,
      ArrowUp: -this.#columns,
      PageDown: page,
      PageUp: -page,
      Home: -total,
      End: total,
    };
    const step = event.ctrlKey || event.metaKey || event.altKey ? undefined : steps[event.key];
    if (step === undefined || total === 0) return;
    event.preventDefault();
    this.#moveTo(Math.min(Math.max(this.#cursor + step, 0), total - 1));
  }

  #moveTo(place) {
    const top = this.#topOf(place);
    const { scrollTop, clientHeight } = this.root;
    if (top - GAP < scrollTop) this.root.scrollTop = top - GAP;
    const bottom = top + this.#tile.height + GAP;
    if (bottom > scrollTop + clientHeight) this.root.scrollTop = bottom - clientHeight;
    this.#tiles.get(this.#cursor)?.link.setAttribute("tabindex", "-1");
    this.#cursor = place;
    this.#render();
    this.#tiles.get(place)?.link.setAttribute("tabindex", "0");
    this.focus();
  }
}

/** Says what an image has, the value first that the images are sorted by. */
function factsOf(image, sort) {
  const segments = `${image.num_segments} ${image.num_segments === 1 ? "segment" : "segments"}`;
  const score = image.mean_score === null ? null : `score ${image.mean_score.toFixed(2)}`;
  const reasons = image.reasons?.length ? image.reasons.join(", ") : null;
  const when = sort === "saved_at" && image.saved_at ? ` at ${clock(image.saved_at)}` : "";
  const who = image.reviewer ? `by ${image.reviewer}${when}` : null;
  return [sortedBy(image, sort), segments, score, who, reasons].filter(Boolean).join(" · ");
}

/** Returns the value of an order that no other fact shows. */
function sortedBy(image, sort) {
  if (image[sort] === null) return null;
  if (sort === "strangeness") return `strangeness ${image.strangeness.toFixed(1)}`;
  if (sort === "coverage" || sort === "disagreement") return `${sort} ${percent(image[sort])}`;
  return null;
}
