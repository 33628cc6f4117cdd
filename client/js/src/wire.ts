/** The binary messages, and what they are bound to (docs/spec/client.md). */

import { type Bytes, concat, sha256, u32, u64, utf8 } from "./bytes.js";
import { type Plan } from "./entry.js";
import { ResultRejected } from "./errors.js";
import { CIPHER_OVERHEAD } from "./sealing.js";
import { answerBytes, vouchersIn } from "./verified.js";

export const MEDIA_TYPE = "application/vnd.moiety.v1";
const REQUEST = utf8("MRQ2");
const HANDSHAKE = utf8("MHS1");
const SECRET = utf8("MSH3");
const RESULT = utf8("MRS1");
const CLIENT = Uint8Array.of(1); // who may read the result
const PROOF_BYTES = 96;
const RESULT_HEAD = 28;

export type Party = 0 | 1;

/** What an envelope is bound to: it opens for no other plan, upload, request, time or role. */
export interface Binding {
  planDigest: Bytes;
  uploadId: Bytes;
  requestId: Bytes;
  requestDigest: Bytes;
  /** When the client made the request, by its own clock, in seconds since 1970. */
  time: number;
}

export function context(to: Binding, direction: "input" | "result", party: Party): Bytes {
  const role = utf8(`moiety/v1 ${direction} ${party}\0`);
  return concat(role, to.planDigest, to.uploadId, to.requestId, to.requestDigest, u64(to.time));
}

/** The random numbers of one request. Never use them with other elements. */
export interface Drawn {
  requestId: Bytes;
  seed: Bytes;
  resultKeys: [Bytes, Bytes];
  time: number;
}

export async function requestDigest(drawn: Drawn, rows: number): Promise<Bytes> {
  const counts = concat(u64(drawn.time), u32(rows));
  return sha256(utf8("moiety/v1 request"), drawn.requestId, counts, ...drawn.resultKeys, drawn.seed);
}

export function handshakeInfo(party: Party): Bytes {
  return utf8(`moiety/v1 handshake ${party}\0`);
}

/** What the holder of a token's key signs. */
export async function statement(key: Bytes, time: number, party: Party, token: string): Promise<Bytes> {
  return concat(handshakeInfo(party), u64(time), await sha256(key), await sha256(utf8(token)));
}

export function packHandshake(key: Bytes, time: number, proof: Bytes = new Uint8Array(PROOF_BYTES)): Bytes {
  return concat(HANDSHAKE, key, u64(time), proof);
}

/** The content of an envelope. */
export function packSecret(requestId: Bytes, resultKey: Bytes, rows: number, share: Bytes): Bytes {
  return concat(SECRET, requestId, resultKey, u32(rows), CLIENT, share);
}

/** The body of the POST. Each envelope comes in its parts, which are copied once. */
export function packRequest(to: Binding, rows: number, envelopes: [Bytes[], Bytes[]]): Bytes {
  const names = [to.uploadId, to.planDigest, to.requestId, to.requestDigest, u64(to.time)];
  const lengths = envelopes.map((parts) => u32(parts.reduce((sum, part) => sum + part.length, 0)));
  return concat(REQUEST, ...names, u32(rows), ...lengths, ...envelopes.flat());
}

/** The bytes of each party's sealed share of a result; of a verified model, of what each says, bob's with so many vouchers. */
function sealedBytes(plan: Plan, rows: number, vouchers: number): [number, number] {
  const { kind, size } = plan.output;
  const share = rows * size * (kind === "labels" ? 1 : plan.ring_bits / 8);
  const own = (more: number) => CIPHER_OVERHEAD + (plan.verified ? answerBytes(plan, rows, more) : share);
  return [own(0), own(vouchers)];
}

/** The most bytes of a result. */
export function resultBytes(plan: Plan, rows: number): number {
  const [alice, bob] = sealedBytes(plan, rows, rows);
  return RESULT_HEAD + alice + bob;
}

/** Both sealed shares. Throws ResultRejected for anything but an answer of the right length to this request. */
export function unpackResult(body: Bytes, requestId: Bytes, plan: Plan, rows: number): [Bytes, Bytes] {
  const [least] = sealedBytes(plan, rows, 0);
  const vouchers = plan.verified ? vouchersIn(body.length - RESULT_HEAD - 2 * least) : 1;
  if (!(Number.isInteger(vouchers) && vouchers >= 1 && vouchers <= rows)) throw rejected();
  const [alice, bob] = sealedBytes(plan, rows, vouchers);
  const head = concat(RESULT, requestId, u32(alice), u32(bob));
  if (body.length !== RESULT_HEAD + alice + bob || head.some((byte, at) => byte !== body[at])) throw rejected();
  return [body.slice(RESULT_HEAD, RESULT_HEAD + alice), body.slice(RESULT_HEAD + alice)];
}

export function rejected(): ResultRejected {
  return new ResultRejected("the answer does not belong to this request, or was changed on the way");
}
