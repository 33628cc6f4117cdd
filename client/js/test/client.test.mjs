// The client against a catalogue and two parties in this process: what it repeats, what it makes anew, what it refuses.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as core from "../build/core.js";

const { concat, Client, Elements, errors, fromHex, hex, readU32, u32, utf8 } = core;
const read = (name) => JSON.parse(readFileSync(new URL(`../../../docs/spec/vectors/${name}.json`, import.meta.url), "utf8"));
const [{ text, owner_key: ownerKey }] = read("entries").cases; // four numbers or pixels in, five classes out, a canary
const ACCESS = { format: 2, catalogue_url: "https://owner.example", owner_key: ownerKey, ca: "", token: "", key: "" };
const CANARY = JSON.parse(text).entry.canaries[0];
const SECRET_BYTES = 57;
const HEAD = 120;

/** X-Wing's private key of each party, by the first bytes of what is sealed to it. */
const SEEDS = new Map(read("seals").cases.map((one) => [one.sealed.slice(0, 16), one.private_seed]));

async function opened(envelope, context) {
  const cipher = core.suite();
  const recipientKey = await cipher.kem.importKey("raw", fromHex(SEEDS.get(hex(envelope.slice(0, 8)))).buffer, false);
  const info = core.handshakeInfo(context.party);
  const sealed = { recipientKey, enc: envelope.slice(8, 1128).buffer, info: info.buffer };
  const handshake = new Uint8Array(await cipher.open(sealed, envelope.slice(1128, 1284).buffer));
  const key = await core.cipherKey(handshake.slice(4, 36), "decrypt");
  return core.decrypt(key, envelope.slice(1284), context.of("input", context.party));
}

/** Both parties: they answer each row by `say`, which gets its elements, and remember every body. */
class Service {
  bodies = [];
  /** What becomes of the next requests: a problem's document, an Error, or nothing. */
  next = [];

  constructor(say = () => [0, 0, 0, 0, 0]) {
    this.say = say;
  }

  fetch = async (url, { method, body, signal }) => {
    signal.throwIfAborted();
    if (method === "GET") return new Response(text);
    assert.equal(url, "https://alice.example:7701/v1/predictions");
    this.bodies.push(hex(body));
    const now = this.next.shift();
    if (now instanceof Error) throw now;
    if (now) return new Response(JSON.stringify(now), { status: 503, headers: { "content-type": "application/problem+json" } });
    return new Response(await this.answer(body), { headers: { "moiety-rounds": "5", "moiety-online-bytes": "7" } });
  };

  async answer(body) {
    const [upload, plan, id, digest] = [4, 20, 52, 68].map((at, part) => body.slice(at, at + [16, 32, 16, 32][part]));
    const time = Number(new DataView(body.buffer, body.byteOffset).getBigUint64(100, true));
    const binding = { planDigest: plan, uploadId: upload, requestId: id, requestDigest: digest, time };
    const of = (direction, party) => core.context(binding, direction, party);
    const first = readU32(body, 112);
    const envelopes = [body.slice(HEAD, HEAD + first), body.slice(HEAD + first)];
    const secrets = await Promise.all(envelopes.map((one, party) => opened(one, { party, of })));
    const alice = Elements.of(32, secrets[0].slice(SECRET_BYTES));
    const bob = Elements.of(32, await core.stream(secrets[1].slice(SECRET_BYTES), ["input"], "share", 4 * alice.length));
    const x = Array.from(alice.plus(bob).words);
    const rows = Array.from({ length: x.length / 4 }, (_, row) => this.say(x.slice(4 * row, 4 * row + 4)));
    const shares = [Int32Array.from(rows.flat(), (one) => one * 16 - 77), Int32Array.from(rows.flat(), () => 77)];
    const sealed = shares.map(async (share, party) => {
      const key = await core.cipherKey(secrets[party].slice(20, 52), "encrypt");
      const nonce = core.random(12);
      return concat(nonce, await core.encrypt(key, nonce, new Uint8Array(share.buffer), of("result", party)));
    });
    const [one, other] = await Promise.all(sealed);
    return concat(utf8("MRS1"), id, u32(one.length), u32(other.length), one, other);
  }

  client(options = {}) {
    return Client.fromAccess(ACCESS, { fetch: this.fetch, timeout: 2000, ...options });
  }
}

const problem = (name, more = {}) => ({ type: `urn:moiety:error:${name}`, ...more });
const ROW = [1, 2, -0.4, 0.5];
const CANARY_INPUT = Array.from((await core.expand(CANARY.seed, JSON.parse(text).entry.plan, null)).words);

/** The right answer to the canary, and to any other row its own elements. */
function honest(x) {
  return `${x}` === `${CANARY_INPUT}` ? CANARY.outputs.map((one) => Math.round(one)) : [...x.map((one) => one / 16), 0];
}

test("an answer comes back, whatever the input's form", async () => {
  const service = new Service(honest);
  const client = await service.client();
  for (const given of [ROW, [ROW], Float64Array.from(ROW), Float32Array.from(ROW)]) {
    const answer = await client.predict("small", given);
    assert.deepEqual([answer.length, answer.labels, answer.names, answer.rounds, answer.onlineBytes], [1, [1], ["b"], 5, 7]);
    assert.deepEqual(Array.from(answer.scores[0]), [1, 2, -0.375, 0.5, 0]);
  }
  const many = Array.from({ length: 250 }, (_, at) => [at / 50, 0, 0, 0]);
  const answer = await client.predict("small", many);
  assert.deepEqual([answer.length, answer.rounds, answer.onlineBytes], [250, 5, 21]);
  assert.equal(answer.scores[249][0], 80 / 16);
  assert.deepEqual(service.bodies.slice(-3).map((body) => readU32(fromHex(body), 108)), [100, 100, 50]);
});

test("a canvas is taken as grey, and turned where it is dark on light", async () => {
  const client = await new Service(honest).client();
  const data = Uint8ClampedArray.from([250, 250, 250, 255, 255, 255, 255, 0, 200, 200, 200, 255, 255, 255, 255, 255]);
  const canvas = await client.predict("small", { width: 2, height: 2, data });
  const grey = await client.predict("small", Uint8Array.from([5, 0, 55, 0]));
  assert.equal(canvas.inverted, 1);
  assert.deepEqual(canvas.given, grey.given);
  const told = await client.predict("small", { width: 2, height: 2, data }, { invert: false });
  assert.equal(told.inverted, 0);
  assert.notDeepEqual(told.given, grey.given);
  const swapped = await client.predict("small", Uint8Array.from([250, 255, 200, 255]), { invert: true });
  assert.deepEqual([swapped.inverted, swapped.given], [1, grey.given]);
});

test("a picture file without a browser, and pixels that are none, say what to pass", async () => {
  const client = await new Service(honest).client();
  await assert.rejects(client.predict("small", new Blob([])), (error) => error instanceof errors.InvalidInput && /browsers/.test(error.message));
  const short = { width: 2, height: 2, data: new Uint8Array(15) };
  await assert.rejects(client.predict("small", short), (error) => error instanceof errors.InvalidInput && /four bytes/.test(error.message));
});

test("the very same request is sent again until it is answered", async () => {
  const service = new Service();
  service.next = [problem("randomness-exhausted", { retry_after: 0 }), new TypeError("no network"), problem("overloaded")];
  await (await service.client({ timeout: 9000 })).predict("small", ROW);
  assert.equal(service.bodies.length, 4);
  assert.equal(new Set(service.bodies).size, 1);
});

test("two requests have nothing in common but what names the model, and the handshake", async () => {
  const service = new Service();
  const client = await service.client();
  for (let at = 0; at < 2; at++) await client.predict("small", ROW);
  const [one, other] = service.bodies.map(fromHex);
  assert.equal(hex(one.slice(0, 52)), hex(other.slice(0, 52)));
  assert.notEqual(hex(one.slice(52, 68)), hex(other.slice(52, 68)));
  assert.equal(hex(one.slice(HEAD, HEAD + 1284)), hex(other.slice(HEAD, HEAD + 1284)));
  assert.notEqual(hex(one.slice(HEAD + 1284)), hex(other.slice(HEAD + 1284)));
});

test("a request that is too old is made anew, once", async () => {
  const service = new Service();
  service.next = [problem("request-expired")];
  const client = await service.client();
  await client.predict("small", ROW);
  assert.equal(new Set(service.bodies).size, 2);
  service.next = [problem("request-expired"), problem("request-expired")];
  await assert.rejects(client.predict("small", ROW), errors.WrongClock);
});

test("an entry that is old is read again, once", async () => {
  const service = new Service();
  const client = await service.client();
  for (const name of ["unknown-model", "key-retired"]) {
    service.next = [problem(name)];
    await client.predict("small", ROW);
  }
  service.next = [problem("unknown-model"), problem("unknown-model")];
  await assert.rejects(client.predict("small", ROW), errors.UnknownModel);
});

test("what is refused is not sent again", async () => {
  for (const [name, error] of [["request-conflict", "RequestRefused"], ["forbidden", "NotAllowed"], ["quota-exceeded", "QuotaExceeded"]]) {
    const service = new Service();
    service.next = [problem(name, { retry_after: 1 }), problem(name)];
    if (name !== "quota-exceeded") delete service.next[0].retry_after;
    await assert.rejects((await service.client()).predict("small", ROW), errors[error]);
    assert.equal(service.bodies.length, 1);
  }
});

test("it gives up at the time limit, and at once when it is aborted", async () => {
  const service = new Service();
  service.next = Array(99).fill(new TypeError("no network"));
  await assert.rejects((await service.client({ timeout: 300 })).predict("small", ROW), errors.ServiceUnavailable);
  service.next = Array(99).fill(problem("overloaded"));
  const stop = new AbortController();
  const asked = (await service.client({ timeout: 60_000 })).predict("small", ROW, { signal: stop.signal });
  setTimeout(() => stop.abort(new Error("enough")), 20);
  await assert.rejects(asked, /enough/);
  await assert.rejects((await service.client()).model("small", { signal: AbortSignal.abort(new Error("early")) }), /early/);
  const hanging = (_, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const late = new AbortController();
  const model = (await service.client({ fetch: hanging })).model("small", { signal: late.signal });
  setTimeout(() => late.abort(new Error("late")), 20);
  await assert.rejects(model, /late/);
});

test("canaries are mixed in, and a wrong answer to one is noticed", async () => {
  const rows = Array.from({ length: 20 }, (_, at) => [at / 8, 0, 0, 0]);
  const places = [];
  const service = new Service((x) => (places.push(`${x}` === `${CANARY_INPUT}`), honest(x)));
  const answer = await (await service.client()).predict("small", rows, { canaries: 6 });
  assert.deepEqual(answer.scores.map((row) => row[0]), rows.map((row) => row[0]));
  assert.equal(places.filter(Boolean).length, 6);
  const liar = new Service(() => [9, 0, 0, 0, 0]);
  await assert.rejects((await liar.client()).predict("small", rows, { canaries: 1 }), errors.CanaryFailed);
  await assert.rejects((await liar.client()).predict("small", rows, { canaries: -1 }), errors.InvalidInput);
});

test("a model that is not verified is not asked by who wants verified ones", async () => {
  const service = new Service();
  const client = await service.client({ requireVerified: true });
  await assert.rejects(client.predict("small", ROW), errors.NotVerified);
  assert.match(await client.describe("small"), /parties are trusted to compute/);
  assert.equal(service.bodies.length, 0);
});

test("what does not fit is refused before anything is sent", async () => {
  const service = new Service();
  const client = await service.client();
  const bad = [[1, 2, 3], [], [[1, 2, 3, 4], [1, 2]], [1, 2, 3, 9], [NaN, 0, 0, 0], "text", null, {}, new Uint8Array(3), [[1, 2, 3, "4"]]];
  for (const given of bad) await assert.rejects(client.predict("small", given), errors.InvalidInput, String(given));
  assert.equal(service.bodies.length, 0);
});
