/**
 * Who may write: HMAC-SHA-256, with a key that only sink and Worker know, over
 *
 *     <usagekit-time>.<usagekit-batch>.<SHA-256 of the body, hex>
 *
 * An attempt is only good for five minutes, and a batch that was written is not written again: a request that somebody
 * recorded is of no use.
 */

export const MAX_SKEW_SECONDS = 300;
const MIN_KEY_LENGTH = 32;
const HEX = /^[0-9a-f]{64}$/;

const encoder = new TextEncoder();

/** Give the keys that count: two during a rotation. Secrets that are too short to be one are none. */
export function ingestKeys(env) {
  return [env.INGEST_KEY, env.INGEST_KEY_NEXT].filter((key) => (key ?? "").length >= MIN_KEY_LENGTH);
}

export async function isSigned(keys, signature, time, batchId, body) {
  if (!HEX.test(signature)) return false;
  const digest = toHex(await crypto.subtle.digest("SHA-256", body));
  const message = encoder.encode(`${time}.${batchId}.${digest}`);
  const given = Uint8Array.from(signature.match(/../g), (byte) => Number.parseInt(byte, 16));
  let fits = false;
  for (const text of keys) {
    const key = await crypto.subtle.importKey("raw", encoder.encode(text), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
    // In constant time, as the standard asks of `verify`; and every key is tried, whichever fits.
    fits = (await crypto.subtle.verify("HMAC", key, given, message)) || fits;
  }
  return fits;
}

function toHex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
