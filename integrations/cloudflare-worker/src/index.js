/**
 * The ingest Worker: takes signed batches of data points and writes each of them to Analytics Engine once.
 *
 * Analytics Engine can only be written from inside Cloudflare. A sink outside posts batches of points here:
 *
 *     POST /v1/batches
 *     usagekit-time: 1795217026                     seconds since 1970, when this attempt was sent
 *     usagekit-batch: 5f3c…                         the same on every retry of the same batch
 *     usagekit-signature: <hex>                     see signature.js
 *
 *     {"dataset": "usagekit", "points": [{"indexes": ["…"], "blobs": ["…"], "doubles": [1.5]}, …]}
 *
 * and is answered {"points", "written", "refused", "replay"}. Everything is checked before the first point is written.
 */

import { Batches } from "./batches.js";
import { InvalidBatch, parsePoints } from "./points.js";
import { ingestKeys, isSigned, MAX_SKEW_SECONDS } from "./signature.js";

export { Batches };

const PATH = "/v1/batches";
const MAX_BYTES = 1_000_000;
const BATCH_ID = /^[A-Za-z0-9._-]{1,128}$/;
const UNIX_SECONDS = /^[0-9]{1,12}$/;

export default {
  async fetch(request, env) {
    const body = await readChecked(request, env);
    return body instanceof Response ? body : write(request.headers.get("usagekit-batch"), body, env);
  },
};

/** Give the body of a request that may be answered with a write, or the answer that refuses it. */
async function readChecked(request, env) {
  if (!new URL(request.url).pathname.endsWith(PATH)) return refusal(404, `there is nothing here but ${PATH}`);
  if (request.method !== "POST") return refusal(405, "batches are sent by POST", { allow: "POST" });
  const keys = ingestKeys(env);
  if (!keys.length) return refusal(503, "INGEST_KEY is not set, or shorter than 32 characters", { "retry-after": "60" });
  if (Number(request.headers.get("content-length")) > MAX_BYTES) return tooLarge();

  const time = request.headers.get("usagekit-time") ?? "";
  const batchId = request.headers.get("usagekit-batch") ?? "";
  if (!UNIX_SECONDS.test(time) || !BATCH_ID.test(batchId)) {
    return refusal(400, "usagekit-time must hold seconds since 1970, usagekit-batch an id of letters, digits and ._-");
  }
  const late = Math.round(Date.now() / 1000 - Number(time));
  if (Math.abs(late) > MAX_SKEW_SECONDS) {
    return refusal(401, `usagekit-time is ${late} s behind the clock here, more than ${MAX_SKEW_SECONDS} s off`);
  }
  const body = await readAtMost(request, MAX_BYTES);
  if (body === null) return tooLarge();
  const signature = request.headers.get("usagekit-signature") ?? "";
  if (!(await isSigned(keys, signature, time, batchId, body))) return refusal(401, "usagekit-signature does not fit");
  return body;
}

/** Read a body, or give null as soon as it turns out to be larger than it may be: a length need not be told. */
async function readAtMost(request, limit) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.byteLength;
    if (size > limit) return null;
    chunks.push(chunk);
  }
  const body = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    body.set(chunk, at);
    at += chunk.byteLength;
  }
  return body;
}

async function write(batchId, body, env) {
  let batch;
  try {
    batch = parsePoints(body);
  } catch (error) {
    if (error instanceof InvalidBatch) return refusal(422, error.message);
    throw error;
  }
  const binding = Object.hasOwn(env.DATASETS, batch.dataset) ? env.DATASETS[batch.dataset] : null;
  if (binding === null) {
    const known = Object.keys(env.DATASETS).join(", ");
    return refusal(404, `there is no dataset ${JSON.stringify(batch.dataset)} here, but ${known}`);
  }
  const batches = env.BATCHES.get(env.BATCHES.idFromName(batch.dataset));
  try {
    return Response.json(await batches.write(binding, batchId, batch.points));
  } catch (error) {
    // The object did not come to an end: whether it wrote is not known, so the batch has to come again.
    console.error(`batch ${batchId}: ${error}`);
    return refusal(503, "the batch could not be remembered", { "retry-after": "1" });
  }
}

function tooLarge() {
  return refusal(413, `a batch has at most ${MAX_BYTES} bytes`);
}

function refusal(status, error, headers = {}) {
  return Response.json({ error }, { status, headers });
}
