import assert from "node:assert/strict";
import { test } from "node:test";

import { Session } from "../../../../pipeline/review_page/static/session.js";
import { LABELS, imageOf } from "./small_images.mjs";

/** Stands in for the browser's database, with its rule of what is written. */
class StoredDrafts {
  stored = null;

  async put(imageId, draft, steps, from) {
    const kept = (this.stored?.steps ?? []).slice(0, from);
    this.stored = structuredClone({ draft, steps: [...kept, ...steps.slice(from)] });
  }

  async get() {
    return this.stored;
  }

  async delete() {
    this.stored = null;
  }
}

const IMAGE = { ...imageOf("1122 1122 3300"), status: null, comment: null, reviewer: null, created_at: null, is_stale: false };
const ANSWER = { revision: 4, reviewer: "ana", created_at: "2026-11-29T14:03:00Z" };

async function opened() {
  const drafts = new StoredDrafts();
  return { drafts, session: await Session.open("a.jpg", { drafts, state: Promise.resolve(IMAGE) }) };
}

const kinds = (session) => session.operations.map(({ kind, label_to: to }) => `${kind} ${to}`);

async function relabel(session, id, label) {
  session.annotation.relabel([id], LABELS[label]);
  await session.store();
}

function sentBy(session) {
  const { steps, done } = session.annotation;
  return { steps: steps.slice(0, done), status: "corrected", comment: "" };
}

test("what is open equals what is stored after each step, each undo and each new branch", async () => {
  const { drafts, session } = await opened();
  const again = async () => {
    const other = await Session.open("a.jpg", { drafts, state: Promise.resolve(IMAGE) });
    assert.deepEqual(other.annotation.rows, session.annotation.rows);
    assert.deepEqual(kinds(other), kinds(session));
    assert.equal(other.annotation.steps.length, session.annotation.steps.length);
  };
  for (const [id, label] of [[1, 2], [2, 3], [3, 4]]) {
    await relabel(session, id, label);
    await again();
  }
  for (let i = 0; i < 2; i++) {
    session.annotation.undo();
    await session.store();
    await again();
  }
  await relabel(session, 3, 0);
  await again();
  assert.deepEqual(kinds(session), ["relabel car", "relabel sky"]);
});

test("a save takes the draft away, and what comes after it is told from there", async () => {
  const { drafts, session } = await opened();
  await relabel(session, 1, 2);
  await relabel(session, 2, 3);
  await session.wasSaved(ANSWER, sentBy(session));
  assert.equal(drafts.stored, null);
  assert.equal(session.hasChanges, false);
  assert.equal(session.parentRevision, 4);
  session.annotation.undo();
  await session.store();
  await relabel(session, 3, 0);
  assert.equal(session.hasChanges, true);
  assert.deepEqual(kinds(session), ["undo tree", "relabel sky"]);
  const again = await Session.open("a.jpg", { drafts, state: Promise.resolve({ ...IMAGE, revision: 4 }) });
  assert.equal(again.parentRevision, 4);
  assert.deepEqual(again.annotation.rows, session.annotation.rows);
});

test("steps made while a save was on its way stay a draft", async () => {
  const { drafts, session } = await opened();
  await relabel(session, 1, 2);
  const sent = sentBy(session);
  await relabel(session, 2, 3);
  await session.wasSaved(ANSWER, sent);
  assert.deepEqual(kinds(session), ["relabel tree"]);
  const again = await Session.open("a.jpg", { drafts, state: Promise.resolve({ ...IMAGE, revision: 4 }) });
  assert.deepEqual(kinds(again), ["relabel tree"]);
  assert.equal(again.parentRevision, 4);
});
