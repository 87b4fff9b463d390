/** Starts the page: what the address names is shown, and keys and buttons reach the view in front. */

import { getJson, reason } from "./api.js";
import { byId, element, setText } from "./dom.js";
import { Drafts } from "./drafts.js";
import { startEncoder } from "./encoder.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { ImageList } from "./image_list.js";
import { ImageView } from "./image_view.js";
import { BINDINGS, actionOf, keyOf, shownKey } from "./keys.js";
import { dismiss, notify } from "./notices.js";
import { Saver } from "./saver.js";
import { count } from "./words.js";

const FILTERS = ["sort", "descending", "label", "min_score", "max_score", "status", "reviewer"];
const RETRY_MS = 2000;
const POLL_MS = 30_000;

/** Holds what is in front: the grid or an image. */
class Page {
  /** @type {ImageList} */
  #list = new ImageList({});
  #place = 0;
  #isImage = false;
  #isStale = true;

  constructor(table) {
    this.table = table;
    this.drafts = new Drafts(table.table);
    this.saver = new Saver({ drafts: this.drafts, onProgress: (progress) => this.#saveWent(progress) });
    this.filters = new Filters({
      onChange: (query) => {
        this.#place = 0;
        location.hash = hashOf("grid", query);
      },
    });
    this.filters.setTable(table);
    this.grid = new Grid({
      hrefOf: (imageId, at) => hashOf("image", { ...this.filters.query, image_id: imageId, at }),
    });
    this.image = new ImageView({
      table,
      drafts: this.drafts,
      saver: this.saver,
      go: (step, which) => this.#go(step, which),
      leave: () => (location.hash = hashOf("grid", this.filters.query)),
    });
    document.body.classList.toggle("only-looking", !table.can_save);
    document.title = table.can_save ? "MaskFormer review" : "MaskFormer gallery";
    setText(byId("table-name"), shortName(table.table));
    byId("table-name").title = table.table;
    setText(byId("grid-reviewer"), table.can_save ? `Reviewing as ${table.reviewer}` : "Gallery");
    showKeys(table.can_save);
    this.#listen();
    this.saver.resume();
    this.#waitForReviews();
  }

  /** Shows what the address names. */
  async route() {
    const { view, query, imageId, at } = routeOf(location.hash);
    this.filters.show(query);
    const isSameList = JSON.stringify(query) === JSON.stringify(this.#list.query);
    if (!isSameList || (view === "grid" && this.#isStale)) this.#list = this.#newList(query);
    const wasImage = this.#isImage;
    this.#isImage = view === "image";
    byId("grid-view").hidden = this.#isImage;
    byId("image-view").hidden = !this.#isImage;
    if (this.#isImage) {
      if (at !== null) this.#place = at;
      await this.#openImage(imageId);
      return;
    }
    this.image.close();
    await this.#showGrid({ hasFocus: wasImage || document.activeElement === document.body });
  }

  #newList(query) {
    return new ImageList(query, {
      onNewVersion: () => {
        if (this.#isImage) this.#isStale = true;
        else this.#showChange();
      },
    });
  }

  /** Shows what a later run has added to the table. */
  #showChange() {
    this.grid.update();
    this.#showTotal();
    this.#refreshTable();
  }

  #showTotal() {
    const { total } = this.#list;
    if (total !== null) setText(byId("total"), `${count(total)} ${total === 1 ? "image" : "images"}`);
  }

  /** Asks whether the table or its reviews have changed, while somebody looks at the grid. */
  async #poll() {
    // New entries would close a list that is open.
    if (document.hidden || this.#isImage || document.activeElement?.tagName === "SELECT") return;
    const before = JSON.stringify(this.table);
    const table = await getJson("/api/table").catch(() => null);
    if (table === null || this.#isImage || JSON.stringify(table) === before) return;
    const list = this.#list;
    // The answer of the list says that it is of another version, and shows the change.
    if (list.version !== null && list.version !== table.version) {
      list.forget();
      this.grid.update();
    } else this.#showTable(table);
  }

  async #showGrid({ hasFocus }) {
    if (this.#isStale) this.#refreshTable();
    this.#isStale = false;
    const list = this.#list;
    const drafts = new Set(await this.drafts.imageIds().catch(() => []));
    await this.grid.show(list, { place: this.#place, drafts });
    if (this.#list !== list || list.total === null) return;
    this.#showTotal();
    if (hasFocus) this.grid.focus();
    performance.measure("grid on screen", { start: 0 });
  }

  async #refreshTable() {
    try {
      this.#showTable(await getJson("/api/table"));
    } catch {
      return; // the list says that there is no server
    }
  }

  #showTable(table) {
    const added = table.images - this.table.images;
    if (table.version !== this.table.version && added > 0) {
      notify("table", `A later run has added ${count(added)} ${added === 1 ? "image" : "images"}.`);
    }
    this.table = table;
    this.filters.setTable(table);
    const { counts, images } = this.table;
    const reviewed = images - (counts.unreviewed ?? images);
    setText(byId("progress"), `${count(reviewed)} of ${count(images)} reviewed`);
  }

  /** Shows the grid anew once the server, which may have just started, has read the reviews. */
  async #waitForReviews() {
    if (this.table.reviews_are_loaded !== false) return;
    while (this.table.reviews_are_loaded === false) {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      this.table = await getJson("/api/table").catch(() => this.table);
    }
    this.#isStale = true;
    if (!this.#isImage) await this.route();
  }

  async #openImage(imageId) {
    await this.image.open(imageId, { position: await this.#position() });
    const next = await this.#list.at(this.#place + 1).catch(() => null);
    if (next && this.image.session?.imageId === imageId) this.image.loader.prefetch(next.image_id);
  }

  async #position() {
    const image = await this.#list.at(this.#place).catch(() => null);
    const total = this.#list.total;
    if (total === null) return "";
    return [`${count(this.#place + 1)} of ${count(total)}`, ...(image?.reasons ?? [])].join(" · ");
  }

  /** Opens the next image of the list, or the one before; with `isUnreviewed` those in between are skipped. */
  async #go(step, { isUnreviewed } = { isUnreviewed: false }) {
    const current = routeOf(location.hash).imageId;
    const here = await this.#list.at(this.#place).catch(() => null);
    // A filter by status no longer lists what has been saved: the next one has taken its place.
    const isListed = here === null || here.image_id === current;
    let place = isListed || step < 0 ? this.#place + step : this.#place;
    let image;
    try {
      image = await this.#list.at(place);
      while (isUnreviewed && image !== null && image.status !== null) image = await this.#list.at((place += step));
    } catch (error) {
      notify("grid", `The images could not be listed: ${reason(error)}`);
      return;
    }
    if (image === null) {
      if (step > 0) notify("end", "This was the last image.");
      if (place >= 0) location.hash = hashOf("grid", this.filters.query);
      return;
    }
    location.hash = hashOf("image", { ...this.filters.query, image_id: image.image_id, at: place });
  }

  async #saveWent(progress) {
    const { state, message, job, answer } = progress;
    const isOpen = await this.image.verdict.saveWent(progress);
    this.#isStale = true;
    if (state === "saved") {
      dismiss(`save ${job.imageId}`);
      this.#list.update(job.imageId, {
        status: answer.status ?? job.status,
        reviewer: answer.reviewer,
        revision: answer.revision,
        saved_at: answer.created_at,
      });
      if (!isOpen) await this.drafts.delete(job.imageId);
      if (!this.#isImage) {
        this.grid.refresh(job.imageId);
        await this.#refreshTable();
      }
    } else if (state === "conflict") {
      const settle = () => this.image.verdict.settle(progress);
      notify(`conflict ${job.imageId}`, `${job.imageId}: ${message.toLowerCase()}.`, { does: "Compare", run: settle });
      if (isOpen) settle();
    } else if (state !== "saving" && !isOpen) {
      notify(`save ${job.imageId}`, `${job.imageId}: ${message}`);
    }
  }

  #listen() {
    window.addEventListener("hashchange", () => {
      // The last image leads back to the grid, which says so until another image is opened.
      if (routeOf(location.hash).view === "image") dismiss("end");
      this.route();
    });
    window.addEventListener("keydown", (event) => this.#keyDown(event));
    window.addEventListener("keyup", (event) => keyOf(event) === "h" && this.image.setHidden(false));
    window.addEventListener("blur", () => this.image.setHidden(false));
    document.addEventListener("click", (event) => {
      const does = /** @type {Element} */ (event.target).closest("[data-does]");
      if (does !== null) this.#do(does.dataset.does, "");
    });
    setInterval(() => this.#poll(), POLL_MS);
    document.addEventListener("visibilitychange", () => this.#poll());
    byId("grid-overlay").addEventListener("change", () => this.grid.setOverlay(byId("grid-overlay").checked));
  }

  #keyDown(event) {
    if (document.querySelector("dialog[open]") !== null) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const key = keyOf(event);
    const isTyping = target.matches("textarea, select, input:not([type=range]):not([type=checkbox])");
    if (isTyping) {
      if (key === "Escape") target.blur();
      return;
    }
    // A focused button, link or slider keeps the keys that it has by itself.
    const isOwn = target.matches("button, a, input") && ["Enter", " ", "Shift+Enter", "Shift+ "].includes(key);
    const isSlider = target.matches("input[type=range]") && /Arrow|Page|Home|End/.test(key);
    if (isOwn || isSlider) return;
    const action = actionOf(key, this.#isImage ? this.#bindings : BINDINGS.grid);
    if (action !== null) {
      if (!event.repeat || ["brush-size", "opacity", "zoom", "undo", "redo"].includes(action)) this.#do(action, key);
    } else if (!this.#isImage || !this.image.useKey(key)) return;
    event.preventDefault();
  }

  get #bindings() {
    return BINDINGS.image.filter(({ onlySaving }) => this.table.can_save || !onlySaving);
  }

  #do(action, key) {
    if (action === "keys") byId("keys").showModal();
    else if (action === "grid-overlay") byId("grid-overlay").click();
    else if (action === "find-label") byId("label-search").focus();
    else if (action === "hide") this.image.setHidden(true);
    else this.image.do(action, key);
  }
}

function routeOf(hash) {
  const [view, text] = hash.replace(/^#/, "").split("?");
  const given = new URLSearchParams(text ?? "");
  const query = {};
  for (const name of FILTERS) if (given.get(name)) query[name] = given.get(name);
  const imageId = given.get("image_id");
  const at = given.get("at");
  const isImage = view === "image" && imageId !== null;
  return { view: isImage ? "image" : "grid", query, imageId, at: at === null ? null : Number(at) || 0 };
}

function hashOf(view, parameters) {
  const text = new URLSearchParams(Object.entries(parameters).map(([k, v]) => [k, String(v)])).toString();
  return text ? `#${view}?${text}` : `#${view}`;
}

function shortName(uri) {
  return uri.replace(/\/+$/, "").split("/").slice(-2).join("/");
}

function showKeys(canSave) {
  const tables = [
    ["Grid", BINDINGS.grid],
    ["Image", BINDINGS.image.filter(({ onlySaving }) => canSave || !onlySaving)],
  ].map(([title, bindings]) =>
    element(
      "section",
      {},
      element("h3", {}, title),
      element(
        "dl",
        {},
        ...bindings.flatMap(({ keys, words }) => [
          element("dt", {}, ...keys.flatMap((key, i) => [i ? (keys[0] === "1" ? " to " : " ") : "", element("kbd", {}, shownKey(key))])),
          element("dd", {}, words),
        ]),
      ),
    ),
  );
  byId("keys-content").replaceChildren(...tables);
}

async function start() {
  startEncoder();
  let table = null;
  while (table === null) {
    try {
      table = await getJson("/api/table");
    } catch (error) {
      notify("start", `The table could not be read: ${reason(error)}`);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
  dismiss("start");
  await new Page(table).route();
}

start();
