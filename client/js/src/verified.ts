/** How a client checks the answer of a verified run (docs/spec/client.md): it knows x, and the dealer vouches for the masks. */

import { type Bytes, concat, equal, fromBase64url, fromHex, sha256, u64, utf8 } from "./bytes.js";
import { Elements } from "./elements.js";
import { type Entry, type Plan } from "./entry.js";
import { CHEATING, CheatingDetected, Problem } from "./errors.js";
import { verifies } from "./signing.js";
import { stream } from "./stream.js";

const PLACE_BYTES = 24; // the lease, and the number of the first row
const DIGEST_BYTES = 32;
const KEY_BYTES = 32;
const SIGNATURE_BYTES = 64;
const WORD_BYTES = 4;

/** The bytes of what a party says of so many rows. bob's has the dealer's signatures too. */
export function answerBytes(plan: Plan, rows: number, party: 0 | 1): number {
  return PLACE_BYTES + DIGEST_BYTES + rows * (KEY_BYTES + WORD_BYTES * plan.output.size + party * SIGNATURE_BYTES);
}

/** What one party says. */
interface Said {
  place: Bytes;
  /** The digest of x with its mask. */
  opened: Bytes;
  keys: Bytes[];
  /** y with its mask. */
  result: Bytes;
  signatures: Bytes[];
}

function read(raw: Bytes, plan: Plan, rows: number): Said {
  let at = 0;
  const take = (count: number) => raw.slice(at, (at += count));
  const each = (count: number) => Array.from({ length: rows }, () => take(count));
  const [place, opened, keys] = [take(PLACE_BYTES), take(DIGEST_BYTES), each(KEY_BYTES)];
  return { place, opened, keys, result: take(rows * WORD_BYTES * plan.output.size), signatures: each(SIGNATURE_BYTES) };
}

/** What two parties say of an input x, each of the right length, yields y. Throws CheatingDetected where it does not hold together. */
export async function accept(answers: readonly Bytes[], x: Elements, rows: number, entry: Entry): Promise<Elements> {
  const [alice, bob] = answers.map((raw) => read(raw, entry.plan, rows)) as [Said, Said];
  const masks = (name: string, words: number) =>
    Promise.all(
      [alice, bob].map(async ({ keys }) => {
        const drawn = keys.map((key) => stream(key, ["row"], name, WORD_BYTES * words));
        return Elements.of(32, concat(...(await Promise.all(drawn))));
      }),
    ) as Promise<[Elements, Elements]>;
  const [one, other] = await masks("input", x.length / rows);
  const opened = await sha256(utf8("moiety/v1 opened input\0"), x.plus(one).plus(other).bytes);
  const agreed = equal(alice.place, bob.place) && equal(alice.result, bob.result);
  const holds = agreed && equal(alice.opened, opened) && equal(bob.opened, opened) && (await isDealt(alice, bob, entry));
  if (!holds) throw new CheatingDetected(new Problem(CHEATING, "what alice and bob say of the answer does not hold together"));
  const [first, second] = await masks("output", entry.plan.output.size);
  return Elements.of(32, alice.result).minus(first).minus(second);
}

/** Whether the dealer signed that these are the rows' keys. */
async function isDealt(alice: Said, bob: Said, entry: Entry): Promise<boolean> {
  const dealer = fromBase64url(entry.record_key!);
  const context = concat(fromHex(entry.upload_id), alice.place.slice(0, 16));
  const start = new DataView(alice.place.buffer).getBigUint64(16, true);
  const signed = bob.signatures.map(async (signature, row) => {
    const hashes = [await keyHash("alice", alice.keys[row]!), await keyHash("bob", bob.keys[row]!)];
    const record = joined(utf8("moiety/v1 row record"), context, u64(start + BigInt(row)), ...hashes);
    return verifies(dealer, signature, record);
  });
  return (await Promise.all(signed)).every((one) => one);
}

async function keyHash(role: string, key: Bytes): Promise<Bytes> {
  return sha256(joined(utf8("moiety/v1 row key"), utf8(role), key));
}

/** Each part behind its length, so that no two sequences make the same bytes. */
function joined(...parts: Bytes[]): Bytes {
  return concat(...parts.flatMap((part) => [u64(part.length), part]));
}
