/** Gives labels to segments: one that is searched for, one used lately, or the model's second-best. */

import { LabelPicker } from "./label_picker.js";
import { say } from "./notices.js";
import { RecentLabels } from "./recent_labels.js";

/** Changes labels of the selected segments, or takes one for a new segment. */
export class Labelling {
  #picker = new LabelPicker();
  #recent;

  /**
   * @param {{table: any, session: () => any, selected: () => number[], changed: (step: any) => void,
   *   usedLabel: () => void, paintNew: (label: any) => void}} of
   *   `usedLabel` is called once the recent labels are others
   */
  constructor({ table, session, selected, changed, usedLabel, paintNew }) {
    Object.assign(this, { table, session, selected, changed, usedLabel, paintNew });
    this.#recent = new RecentLabels(table);
  }

  /** Returns the labels used lately, the last one first. */
  get recent() {
    return this.#recent.labels;
  }

  /** Asks for a label for the selected segments. */
  async relabel() {
    const ids = [...this.selected()];
    const label = await this.#ask("Relabel");
    if (label !== null) this.#give(ids, label);
  }

  /** Asks for the label of a segment that is to be painted. */
  async newSegment() {
    const label = await this.#ask("New segment");
    if (label !== null) this.#paint(label);
  }

  /**
   * Gives a label used lately to the selected segments, or paints a new one where none is selected.
   *
   * @param {number} place among `recent`
   */
  useRecent(place) {
    const label = this.recent[place];
    if (label === undefined) return;
    if (this.selected().length > 0) this.#give(this.selected(), label);
    else this.#paint(label);
  }

  /** Gives the first selected segment the label that the model thought of next. */
  takeSecond() {
    const [id] = this.selected();
    const name = this.session().annotation.segments.get(id)?.second_label;
    const label = this.table.labels.find((each) => each.name === name);
    if (label) this.#give([id], label);
    else say("There is no second-best label");
  }

  /** Returns null where none was chosen, or another image is open by now. */
  async #ask(title) {
    const session = this.session();
    const label = await this.#picker.ask(this.#recent.first(this.table.labels), title);
    return this.session() === session ? label : null;
  }

  #give(ids, label) {
    this.#recent.use(label);
    this.changed(this.session().annotation.relabel(ids, label));
    this.usedLabel();
  }

  #paint(label) {
    this.#recent.use(label);
    this.paintNew(label);
  }
}
