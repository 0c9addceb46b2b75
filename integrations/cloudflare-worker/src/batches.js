import { DurableObject } from "cloudflare:workers";

// Analytics Engine keeps points for three months. Whatever comes again later than that doubles nothing that is left.
const REMEMBERED_DAYS = 100;
const DAY_MS = 86_400_000;

/**
 * Writes the batches of one dataset, and remembers which: a batch that comes again is not written again.
 *
 * Points are written here, and not in the Worker that asks, because nothing can come in between: from looking the batch
 * up to noting it there is no `await`, and the runtime holds the answer back until the note is on disk. So a sink that was
 * answered knows that the batch is never written again. One that was not asks again; if this object's machine died
 * between the first point and the note, the points are written a second time. Losing them instead would be the other
 * choice: there is no third, since Analytics Engine confirms nothing.
 */
export class Batches extends DurableObject {
  #sql;
  #sweptDay = 0;

  constructor(ctx, env) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS batches (
         id TEXT PRIMARY KEY,
         day INTEGER NOT NULL,      -- since 1970, UTC
         points INTEGER NOT NULL,
         done INTEGER NOT NULL,     -- how many of them were written or refused
         refused INTEGER NOT NULL   -- how many the runtime would not take
       ) WITHOUT ROWID`,
    );
  }

  /**
   * Write to `env[binding]` what of a batch was not written before.
   *
   * The runtime may end an invocation's writing early. The answer then says fewer written points than there are; the next
   * attempt goes on from there.
   */
  write(binding, batchId, points) {
    const known = this.#sql.exec("SELECT points, done, refused FROM batches WHERE id = ?", batchId).toArray()[0];
    if (known !== undefined && known.done >= known.points) return answer(known, true);

    const batch = known ?? { points: points.length, done: 0, refused: 0 };
    const first = batch.done;
    for (const point of points.slice(first)) {
      try {
        this.env[binding].writeDataPoint(point);
      } catch (error) {
        console.error(`batch ${batchId}, point ${batch.done}: ${error}`);
        // After other points it may be the invocation's limit. The first is at fault itself, and would be for ever.
        if (batch.done > first) break;
        batch.refused += 1;
      }
      batch.done += 1;
    }
    const today = Math.floor(Date.now() / DAY_MS);
    this.#sql.exec(
      "INSERT OR REPLACE INTO batches (id, day, points, done, refused) VALUES (?, ?, ?, ?, ?)",
      ...[batchId, today, batch.points, batch.done, batch.refused],
    );
    this.#sweep(today);
    return answer(batch, false);
  }

  #sweep(today) {
    if (today === this.#sweptDay) return;
    this.#sql.exec("DELETE FROM batches WHERE day < ?", today - REMEMBERED_DAYS);
    this.#sweptDay = today;
  }
}

function answer({ points, done, refused }, replay) {
  return { points, written: done - refused, refused, replay };
}
