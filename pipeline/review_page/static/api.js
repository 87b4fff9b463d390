/** Requests to the server of the page. */

const REQUEST_SECONDS = 120;

/** An answer of the server that is no success. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status: number, body?: any}} answer
   */
  constructor(message, { status, body }) {
    super(message);
    this.status = status;
    this.body = body;
  }

  /** Tells whether the same request may succeed later. */
  get isTemporary() {
    return this.status >= 500 || this.status === 429;
  }
}

/**
 * Returns the address of a resource; parameters that are null or empty are left out.
 *
 * @param {string} path
 * @param {Record<string, any>} parameters
 * @returns {string}
 */
export function address(path, parameters = {}) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  const query = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return query ? `${path}?${query}` : path;
}

/**
 * @param {string} path
 * @param {Record<string, any>} parameters
 * @returns {Promise<any>}
 * @throws {ApiError} of an answer of the server
 * @throws {TypeError} where there is no answer
 */
export function getJson(path, parameters = {}) {
  return request(address(path, parameters), {});
}

/**
 * @param {string} path
 * @param {any} body
 * @returns {Promise<any>}
 */
export function postJson(path, body) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/**
 * Says in words why a request failed.
 *
 * @param {any} error
 * @returns {string}
 */
export function reason(error) {
  if (!(error instanceof ApiError)) return "the server does not answer";
  if (error.status === 401 || error.status === 403) {
    return "the server was started again: open the address that it printed";
  }
  return error.message;
}

async function request(url, options) {
  const response = await fetch(url, {
    credentials: "same-origin",
    signal: AbortSignal.timeout(1000 * REQUEST_SECONDS),
    ...options,
  });
  const text = await response.text();
  let body = null;
  try {
    body = text ? JSON.parse(text) : null;
  } catch {
    body = { error: text.slice(0, 200) };
  }
  if (!response.ok) {
    throw new ApiError(body?.error ?? response.statusText, { status: response.status, body });
  }
  return body;
}
