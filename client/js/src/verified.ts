/** How a client checks the answer of a verified run (docs/spec/client.md): it knows x, and the dealer vouches for the masks. */

import { type Bytes, concat, equal, fromBase64url, fromHex, hex, sha256, u64, utf8 } from "./bytes.js";
import { Elements } from "./elements.js";
import { type Entry, type Plan } from "./entry.js";
import { CHEATING, CheatingDetected, Problem } from "./errors.js";
import { verifies } from "./signing.js";
import { stream } from "./stream.js";

const PLACE_BYTES = 24; // the lease, and the number of the first row
const DIGEST_BYTES = 32;
const KEY_BYTES = 32;
const RECORD_BYTES = 32;
const SIGNATURE_BYTES = 64;
const VOUCHED_ROWS = 8;
const VOUCHED_BYTES = 8 + VOUCHED_ROWS * RECORD_BYTES; // the number of a group's first row, and the records of its rows
const VOUCHER_BYTES = VOUCHED_BYTES + SIGNATURE_BYTES;
const WORD_BYTES = 4;

/** The bytes of what a party says of so many rows. bob's has so many of the dealer's vouchers too: one at least, at most one for each row. */
export function answerBytes(plan: Plan, rows: number, vouchers: number): number {
  return PLACE_BYTES + DIGEST_BYTES + rows * (KEY_BYTES + WORD_BYTES * plan.output.size) + vouchers * VOUCHER_BYTES;
}

/** How many vouchers have so many bytes. */
export function vouchersIn(bytes: number): number {
  return bytes / VOUCHER_BYTES;
}

/** What one party says. */
interface Said {
  place: Bytes;
  /** The digest of x with its mask. */
  opened: Bytes;
  keys: Bytes[];
  /** y with its mask. */
  result: Bytes;
  vouchers: Bytes[];
}

function read(raw: Bytes, plan: Plan, rows: number): Said {
  let at = 0;
  const take = (count: number) => raw.slice(at, (at += count));
  const each = (length: number, count: number) => Array.from({ length }, () => take(count));
  const [place, opened, keys] = [take(PLACE_BYTES), take(DIGEST_BYTES), each(rows, KEY_BYTES)];
  const result = take(rows * WORD_BYTES * plan.output.size);
  return { place, opened, keys, result, vouchers: each(vouchersIn(raw.length - at), VOUCHER_BYTES) };
}

/** What two parties say of an input x, each of the right length, yields y. Throws CheatingDetected where it does not hold together. */
export async function accept(answers: readonly Bytes[], x: Elements, rows: number, entry: Entry): Promise<Elements> {
  const [alice, bob] = answers.map((raw) => read(raw, entry.plan, rows)) as [Said, Said];
  const values = x.length / rows;
  const [one, other] = await Promise.all([masks(alice, values, entry.plan), masks(bob, values, entry.plan)]);
  const opened = await sha256(utf8("moiety/v1 opened input\0"), x.plus(one.input).plus(other.input).bytes);
  const agreed = equal(alice.place, bob.place) && equal(alice.result, bob.result);
  const holds = agreed && equal(alice.opened, opened) && equal(bob.opened, opened) && (await isDealt(alice, bob, entry));
  if (!holds) throw new CheatingDetected(new Problem(CHEATING, "what alice and bob say of the answer does not hold together"));
  return Elements.of(32, alice.result).minus(one.output).minus(other.output);
}

/** A party's shares of the masks of inputs and of results, from its rows' keys. */
async function masks({ keys }: Said, values: number, plan: Plan): Promise<{ input: Elements; output: Elements }> {
  const words = values + plan.output.size;
  const drawn = await Promise.all(keys.map((key) => stream(key, ["row"], "masks", WORD_BYTES * words)));
  const part = (start: number, end?: number) => Elements.of(32, concat(...drawn.map((row) => row.slice(start, end))));
  return { input: part(0, WORD_BYTES * values), output: part(WORD_BYTES * values) };
}

/** Whether the dealer vouches for the rows' keys. */
async function isDealt(alice: Said, bob: Said, entry: Entry): Promise<boolean> {
  const [dealer, upload, lease] = [fromBase64url(entry.record_key!), fromHex(entry.upload_id), alice.place.slice(0, 16)];
  const known = new Set<string>();
  for (const voucher of bob.vouchers) {
    const [first, records] = [voucher.slice(0, 8), voucher.slice(8, VOUCHED_BYTES)];
    const vouched = joined(utf8("moiety/v1 vouched rows"), upload, lease, first, records);
    if (!(await verifies(dealer, voucher.slice(VOUCHED_BYTES), vouched))) return false;
    for (let row = 0; row < VOUCHED_ROWS; row++) known.add(named(first, row, records.slice(row * RECORD_BYTES, (row + 1) * RECORD_BYTES)));
  }
  const held = alice.keys.map(async (key, row) => {
    const record = await sha256(joined(utf8("moiety/v1 row record"), key, bob.keys[row]!));
    return known.has(named(alice.place.slice(16), row, record));
  });
  return (await Promise.all(held)).every((one) => one);
}

/** The number of a row, behind a first one, and its record. */
function named(first: Bytes, row: number, record: Bytes): string {
  return `${new DataView(first.buffer).getBigUint64(0, true) + BigInt(row)} ${hex(record)}`;
}

/** Each part behind its length, so that no two sequences make the same bytes. */
function joined(...parts: Bytes[]): Bytes {
  return concat(...parts.flatMap((part) => [u64(part.length), part]));
}
