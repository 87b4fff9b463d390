/** Elements of the page, made without markup: what comes from a corpus is always text. */

/**
 * Makes an element.
 *
 * @param {string} tag with classes behind dots: `button.primary`
 * @param {Record<string, any>} attributes `onclick` and such are listeners; `true` sets an attribute
 *   without a value; false, null and undefined leave it out
 * @param {...(Node | string | null)} children strings become text
 * @returns {any}
 */
export function element(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = document.createElement(name);
  if (classes.length > 0) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * Returns the element of an id, which must be there.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page must have an element with the id ${id}`);
  return found;
}

/**
 * Sets the text of an element where it differs, so that a screen reader hears each text once.
 *
 * @param {HTMLElement} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
