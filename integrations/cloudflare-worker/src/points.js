/**
 * What Analytics Engine takes, checked here: some runtimes drop what it does not take without a word, others throw in the
 * middle of a batch. https://developers.cloudflare.com/analytics/analytics-engine/limits/
 */

export const MAX_POINTS = 250; // writeDataPoint calls in one invocation
const MAX_FIELDS = 20;
const MAX_INDEX_BYTES = 96;
const MAX_BLOB_BYTES = 16_000; // all blobs of one point together

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Says what is wrong with a batch; it will be wrong every time. */
export class InvalidBatch extends Error {}

/** Give `{dataset, points}` of a body whose every point can be written; throws InvalidBatch. */
export function parsePoints(body) {
  let batch;
  try {
    batch = JSON.parse(decoder.decode(body));
  } catch {
    throw new InvalidBatch("the body is not JSON in UTF-8");
  }
  if (!isObject(batch) || typeof batch.dataset !== "string" || !Array.isArray(batch.points)) {
    throw new InvalidBatch('the body must be {"dataset": "…", "points": […]}');
  }
  if (batch.points.length < 1 || batch.points.length > MAX_POINTS) {
    throw new InvalidBatch(`a batch has 1 to ${MAX_POINTS} points, this has ${batch.points.length}`);
  }
  batch.points.forEach(checkPoint);
  return batch;
}

function checkPoint(point, at) {
  const fail = (what) => {
    throw new InvalidBatch(`point ${at}: ${what}`);
  };
  if (!isObject(point)) fail('must be {"indexes": […], "blobs": […], "doubles": […]}');
  for (const name of Object.keys(point)) {
    if (!["indexes", "blobs", "doubles"].includes(name)) fail(`${JSON.stringify(name)} is no part of a point`);
  }
  const { indexes, blobs, doubles } = point;
  if (!isListOf(isText, indexes, 1)) fail("indexes must be at most one string");
  if (byteLength(indexes) > MAX_INDEX_BYTES) fail(`the index has more than ${MAX_INDEX_BYTES} bytes`);
  if (!isListOf(isText, blobs, MAX_FIELDS)) fail(`blobs must be at most ${MAX_FIELDS} strings`);
  if (byteLength(blobs) > MAX_BLOB_BYTES) fail(`blobs have more than ${MAX_BLOB_BYTES} bytes together`);
  if (!isListOf(Number.isFinite, doubles, MAX_FIELDS)) fail(`doubles must be at most ${MAX_FIELDS} finite numbers`);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isListOf(isGood, values, limit) {
  return Array.isArray(values) && values.length <= limit && values.every((value) => isGood(value));
}

function isText(value) {
  return typeof value === "string" && value.isWellFormed();
}

function byteLength(texts) {
  return encoder.encode(texts.join("")).byteLength;
}
