/** One prediction without any transport: it splits and seals the inputs, and opens and joins the answer. */

import { type Bytes, fromHex, random } from "./bytes.js";
import { Elements } from "./elements.js";
import { type Entry, type Plan } from "./entry.js";
import { ResultRejected } from "./errors.js";
import { cipherKey, decrypt, encrypt, NONCE_BYTES, SealingKey } from "./sealing.js";
import { type Holder } from "./signing.js";
import { SEED_BYTES, stream } from "./stream.js";
import { type Believed } from "./trust.js";
import { accept } from "./verified.js";
import {
  type Binding,
  context,
  type Drawn,
  handshakeInfo,
  packHandshake,
  packRequest,
  packSecret,
  type Party,
  rejected,
  requestDigest,
  statement,
  unpackResult,
} from "./wire.js";

const PARTIES: readonly Party[] = [0, 1];
const MAX_SECONDS = 300; // between a handshake and a request that uses it
const KEY_BYTES = 32;
const ID_BYTES = 16;

/** A handshake with a party: its key, and the bytes that give it to the party. */
export interface Begun {
  cipher: CryptoKey;
  sealed: Bytes;
}

/** Who asks: a token, and the key to which it is bound. */
export interface Bearer {
  token: string;
  holder: Holder | null;
}

/** The content of a handshake with a party, under a fresh key. */
export async function handshake(key: Bytes, time: number, party: Party, who: Bearer): Promise<Bytes> {
  if (!who.holder || !who.token) return packHandshake(key, time);
  return packHandshake(key, time, await who.holder.prove(await statement(key, time, party, who.token)));
}

export function draw(time: number): Drawn {
  return { requestId: random(ID_BYTES), seed: random(SEED_BYTES), resultKeys: [random(KEY_BYTES), random(KEY_BYTES)], time };
}

/** A sealed request. You may send `body` again: the parties run it once. */
export class Call {
  constructor(
    readonly entry: Entry,
    readonly binding: Binding,
    readonly rows: number,
    readonly body: Bytes,
    private readonly resultKeys: [Bytes, Bytes],
    readonly elements: Elements,
    /** alice's share of the elements. */
    readonly share: Elements,
    /** What the body holds for each party, behind its handshake: a nonce, and the sealed message. */
    readonly messages: readonly [Bytes[], Bytes[]],
  ) {}

  /** The sealed shares of an answer, alice's and bob's. Throws ResultRejected. */
  results(answer: Bytes): [Bytes, Bytes] {
    return unpackResult(answer, this.binding.requestId, this.entry.plan, this.rows);
  }

  /**
   * Opens an answer, and returns what both shares join to. Throws ResultRejected for anything else, and CheatingDetected
   * where the parties of a verified run say what does not hold together.
   */
  async open(answer: Bytes): Promise<Float64Array> {
    const { plan } = this.entry;
    const sealed = this.results(answer);
    const opened = PARTIES.map(async (party) => {
      const key = await cipherKey(this.resultKeys[party], "decrypt");
      return decrypt(key, sealed[party], context(this.binding, "result", party));
    });
    const shares = await Promise.all(opened).catch(() => {
      throw rejected();
    });
    if (plan.verified) return meant(plan, await accept(shares, this.elements, this.rows, this.entry));
    return joined(plan, shares[0]!, shares[1]!);
  }
}

/** Joins both parties' shares: ranks, decisions, or the outputs without the model's last function. */
export function joined(plan: Plan, alice: Bytes, bob: Bytes): Float64Array {
  if (plan.output.kind === "labels") return Float64Array.from(alice, (byte, at) => byte ^ bob[at]!);
  return meant(plan, Elements.of(plan.ring_bits, alice).plus(Elements.of(plan.ring_bits, bob)));
}

/** What the sum of the shares stands for. */
function meant(plan: Plan, sum: Elements): Float64Array {
  if (plan.output.kind === "labels") return Float64Array.from(sum.words, (rank) => rank & 255);
  const scale = plan.output.kind === "decision" ? 1 : plan.output.scale;
  const values = Float64Array.from({ length: sum.length }, (_, at) => sum.get(at) * scale);
  if (plan.output.kind === "decision" && values.some((one) => one !== 0 && one !== 1)) {
    throw new ResultRejected("the answer is no decision, so a party computed wrongly: tell the model's owner");
  }
  return values;
}

/** Makes one client's calls to one model. It holds the parties' keys, and a handshake with each. */
export class Sealer {
  #begun: { time: number; with: Promise<[Begun, Begun]> } | null = null;

  private constructor(
    readonly entry: Entry,
    private readonly planDigest: Bytes,
    private readonly keys: readonly SealingKey[],
    private readonly who: Bearer,
  ) {}

  /** Throws if a party's key is none. */
  static async of({ entry, planDigest }: Believed, who: Bearer): Promise<Sealer> {
    const keys = await Promise.all(entry.parties.map((party) => SealingKey.of(party.sealing_key)));
    return new Sealer(entry, planDigest, keys, who);
  }

  /** Splits and seals the elements of at most max_rows inputs. */
  async call(elements: Elements, rows: number): Promise<Call> {
    const drawn = draw(Math.floor(Date.now() / 1000));
    const begun = await this.#handshakes(drawn.time);
    return seal(this.entry, this.planDigest, elements, rows, drawn, begun, [random(NONCE_BYTES), random(NONCE_BYTES)]);
  }

  #handshakes(time: number): Promise<[Begun, Begun]> {
    if (this.#begun === null || Math.abs(time - this.#begun.time) > MAX_SECONDS) {
      const made = Promise.all([this.#begin(time, 0), this.#begin(time, 1)]);
      this.#begun = { time, with: made };
    }
    return this.#begun.with;
  }

  async #begin(time: number, party: Party): Promise<Begun> {
    const key = random(KEY_BYTES);
    const content = await handshake(key, time, party, this.who);
    const sealed = await this.keys[party]!.seal(content, handshakeInfo(party));
    return { cipher: await cipherKey(key, "encrypt"), sealed };
  }
}

/** Makes a request of all that was drawn for it. */
export async function seal(
  entry: Entry,
  planDigest: Bytes,
  elements: Elements,
  rows: number,
  drawn: Drawn,
  begun: readonly [Begun, Begun],
  nonces: readonly [Bytes, Bytes],
): Promise<Call> {
  const { requestId, seed, resultKeys, time } = drawn;
  const [digest, raw] = await Promise.all([
    requestDigest(drawn, rows),
    stream(seed, ["input"], "share", elements.bytes.length),
  ]);
  const binding = { planDigest, uploadId: fromHex(entry.upload_id), requestId, requestDigest: digest, time };
  const share = elements.minus(new Elements(elements.bits, new Int32Array(raw.buffer)));
  const sent = [share.bytes, seed];
  const sealed = PARTIES.map(async (party) => {
    const secret = packSecret(requestId, resultKeys[party], rows, sent[party]!);
    return [nonces[party], await encrypt(begun[party].cipher, nonces[party], secret, context(binding, "input", party))];
  });
  const messages = (await Promise.all(sealed)) as [Bytes[], Bytes[]];
  const body = packRequest(binding, rows, [[begun[0].sealed, ...messages[0]], [begun[1].sealed, ...messages[1]]]);
  return new Call(entry, binding, rows, body, resultKeys, elements, share, messages);
}
