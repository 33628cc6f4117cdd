// The vectors of docs/spec/client.md: what is good comes out as it stands there, and what is bad is refused.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import * as core from "../build/core.js";

const { base64url, Elements, errors, fromBase64url, fromHex, hex, sha256, utf8 } = core;
const STEP = 29; // every byte would take a minute

function read(name) {
  return JSON.parse(readFileSync(new URL(`../../../docs/spec/vectors/${name}.json`, import.meta.url), "utf8"));
}

/** Copies with one changed bit each: of the first 200 bytes, the last 40, and every so many between. */
function* flipped(raw) {
  for (let at = 0; at < raw.length; at++) {
    if (at >= 200 && at < raw.length - 40 && at % STEP) continue;
    const copy = raw.slice();
    copy[at] ^= 1;
    yield copy;
  }
}

function texts(elements) {
  const { buffer } = elements.words;
  return Array.from(elements.bits === 32 ? new Int32Array(buffer) : new BigInt64Array(buffer), String);
}

/** A plan with what a vector states of it. */
function planOf({ ring_bits, input }) {
  return { ring_bits, input, output: { kind: "logits" } };
}

function entryOf(found) {
  return { name: "m", plan: planOf(found), preprocessing: found.preprocessing ?? null, canaries: [], max_rows: 100 };
}

function near(found, expected) {
  const [one, other] = [[...found], [...expected]];
  assert.equal(one.length, other.length);
  one.forEach((value, at) => {
    if (typeof value === "number") {
      assert.ok(Math.abs(value - other[at]) <= 1e-12 * Math.max(1, Math.abs(other[at])), `${value} is not ${other[at]}`);
    } else near(value, other[at]);
  });
}

describe("canonical JSON", () => {
  for (const { text, canonical, sha256: digest } of read("canonical").cases) {
    test(text.slice(0, 40), async () => {
      assert.equal(core.canonical(core.parse(text)), canonical);
      assert.equal(hex(await sha256(utf8(canonical))), digest);
    });
  }
  for (const { text } of read("canonical").refused) {
    test(`refuses ${text}`, () => assert.throws(() => core.canonical(core.parse(text)), SyntaxError));
  }
});

describe("streams", () => {
  for (const [at, { seed, address, name, bytes, first, sha256: digest }] of read("streams").cases.entries()) {
    test(`case ${at}`, async () => {
      const raw = await core.stream(fromHex(seed), address, name, bytes);
      assert.equal(hex(raw.slice(0, 64)), first);
      assert.equal(hex(await sha256(raw)), digest);
    });
  }
});

describe("elements", () => {
  const how = (found) => ({ fracBits: found.frac_bits, ringBits: found.ring_bits, low: found.low, high: found.high });
  for (const [at, found] of read("elements").cases.entries()) {
    test(`case ${at}`, async () => {
      assert.ok(found.values.every((value) => core.inRange(value, how(found))));
      const encoded = core.encode(found.values, how(found));
      assert.deepEqual(texts(encoded), found.elements);
      const bob = Elements.of(found.ring_bits, await core.stream(fromHex(found.seed), ["input"], "share", encoded.bytes.length));
      assert.equal(hex(bob.bytes), found.bob);
      const alice = encoded.minus(Elements.of(found.ring_bits, bob.bytes));
      assert.equal(hex(alice.bytes), found.alice);
      assert.deepEqual(texts(alice.plus(bob)), found.elements);
    });
  }
  for (const [at, found] of read("elements").refused.entries()) {
    test(`refuses case ${at}`, () => {
      const values = found.values.map((text) => ({ nan: NaN, inf: Infinity, "-inf": -Infinity })[text] ?? Number(text));
      assert.ok(!core.fits(how(found)) || values.some((value) => !core.inRange(value, how(found))));
    });
  }
});

describe("inputs", () => {
  const given = ({ given, pixels, picture }) => {
    if (picture) return { ...picture, data: fromHex(picture.data) };
    return pixels === undefined ? given : fromHex(pixels);
  };
  const encoded = (found) => {
    const vocabulary = found.table !== undefined && new core.Vocabulary(found.preprocessing, fromHex(found.table));
    return core.encodeInputs(entryOf(found), given(found), "strict", vocabulary);
  };
  for (const file of ["inputs", "pictures", "tables", "ids"]) {
    for (const [at, found] of read(file).cases.entries()) {
      test(`${file}, case ${at}`, () => {
        const { rows, elements } = encoded(found);
        assert.equal(rows, found.rows);
        assert.deepEqual(texts(elements), found.elements);
      });
    }
    for (const [at, found] of read(file).refused.entries()) {
      test(`${file}, refuses case ${at}`, () => {
        assert.throws(
          () => encoded(found),
          (error) => {
            assert.ok(error instanceof errors.InvalidInput);
            if (found.column !== undefined) assert.deepEqual([error.column, error.row], [found.column, found.row]);
            return true;
          },
        );
      });
    }
  }
});

describe("canaries", () => {
  const { cases, places, answers } = read("canaries");
  for (const [at, found] of cases.entries()) {
    test(`case ${at}`, async () => {
      assert.deepEqual(texts(await core.expand(found.seed, planOf(found), found.preprocessing)), found.elements);
    });
  }
  test("places", () => {
    for (const { outputs, places: told } of places) assert.deepEqual(core.places(outputs), told);
  });
  test("answers", () => {
    for (const { output, canary, given, accepted } of answers) {
      const sized = { ...output, size: given.length };
      assert.equal(core.fitsCanary(sized, canary, Float64Array.from(given)), accepted);
    }
  });
});

describe("answers", () => {
  for (const [at, { output, given, ...told }] of read("answers").cases.entries()) {
    test(`case ${at}, ${output.kind} ${output.task} ${output.final}`, () => {
      const sized = { ...output, size: given[0].length };
      const answer = new core.Prediction(sized, Float64Array.from(given.flat()), [], 0, 0, 0);
      for (const [name, expected] of Object.entries(told)) {
        if (expected.raises) assert.throws(() => answer[name], { name: expected.raises });
        else if (Array.isArray(expected)) near(answer[name], expected);
        else for (const [part, rows] of Object.entries(expected)) near(answer[name][part], rows);
      }
    });
  }
});

describe("entries", () => {
  const asked = ({ name, owner_key: ownerKey, seen, now }) => ({ name, ownerKey, seen, now });
  const { cases, refused } = read("entries");
  for (const [at, found] of cases.entries()) {
    test(`case ${at}`, async () => {
      const { entry, planDigest } = await core.believe(found.text, asked(found));
      assert.equal(hex(planDigest), found.plan_digest);
      assert.equal(entry.plan.output.kind, found.output_kind);
    });
  }
  for (const [at, found] of refused.entries()) {
    test(`refuses case ${at}: ${found.error}`, async () => {
      await assert.rejects(core.believe(found.text, asked(found)), (error) => error instanceof errors[found.error]);
    });
  }
  test("no changed byte passes", async () => {
    const [found] = cases;
    for (const raw of flipped(utf8(found.text))) {
      const text = new TextDecoder().decode(raw);
      await assert.rejects(core.believe(text, asked(found)), errors.MoietyError, text);
    }
  });
});

describe("tokens", () => {
  for (const [at, found] of read("tokens").cases.entries()) {
    test(`case ${at}`, async () => {
      const holder = await core.Holder.fromPem(found.key_pem);
      assert.equal(hex(holder.publicKey), found.public);
      const x = base64url(holder.publicKey).replace(/=+$/, "");
      const jwk = await sha256(utf8(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`));
      assert.equal(base64url(jwk).replace(/=+$/, ""), found.thumbprint);
    });
  }
});

/** X-Wing's private key and what it opens, as a party does it: the client itself opens no seal. */
async function unseal({ private_seed: seed, public_key: publicKey }, sealed, info) {
  const cipher = core.suite();
  const key = await cipher.kem.importKey("raw", fromHex(seed).buffer, false);
  const id = (await sha256(fromBase64url(publicKey))).slice(0, 8);
  assert.equal(hex(sealed.slice(0, 8)), hex(id), "another key");
  const recipient = { recipientKey: key, enc: sealed.slice(8, 8 + 1120).buffer, info: info.slice().buffer };
  return new Uint8Array(await cipher.open(recipient, sealed.slice(8 + 1120).buffer));
}

describe("seals", () => {
  for (const [at, found] of read("seals").cases.entries()) {
    const [sealed, info] = [fromHex(found.sealed), fromHex(found.info)];
    test(`case ${at}`, async () => {
      assert.equal(hex(await unseal(found, sealed, info)), found.message);
      const own = await (await core.SealingKey.of(found.public_key)).seal(fromHex(found.message), info);
      assert.equal(own.length, sealed.length);
      assert.equal(hex(await unseal(found, own, info)), found.message);
    });
  }
  test("no changed byte passes", async () => {
    const [found] = read("seals").cases;
    const each = [...flipped(fromHex(found.sealed))];
    for (const raw of each.filter((_, at) => at % 4 === 0)) { // ML-KEM takes its time
      await assert.rejects(unseal(found, raw, fromHex(found.info)));
    }
    for (const info of flipped(fromHex(found.info))) await assert.rejects(unseal(found, fromHex(found.sealed), info));
  });
});

describe("requests", () => {
  for (const [at, found] of read("requests").cases.entries()) {
    test(`case ${at}`, async () => {
      const plan = JSON.parse(found.plan);
      assert.equal(hex(await sha256(utf8(core.canonical(core.parse(found.plan))))), found.plan_digest);
      const holder = found.holder ? await core.Holder.fromPem(found.holder) : null;
      const begun = found.handshakes.map(async (one, party) => {
        const key = fromHex(one.key);
        assert.equal(hex(await core.statement(key, one.time, party, found.token)), one.statement);
        assert.equal(hex(await core.handshake(key, one.time, party, { token: found.token, holder })), one.content);
        assert.equal(hex(core.packHandshake(key, one.time, fromHex(one.proof))), one.content);
        assert.equal(hex(core.handshakeInfo(party)), one.info);
        return { cipher: await core.cipherKey(key, "encrypt"), sealed: fromHex(one.sealed) };
      });
      const drawn = {
        requestId: fromHex(found.request_id),
        seed: fromHex(found.seed),
        resultKeys: found.result_keys.map(fromHex),
        time: found.time,
      };
      const elements = Elements.zeros(plan.ring_bits, found.elements.length);
      found.elements.forEach((text, place) => elements.setWhole(place, BigInt(text)));
      const entry = { upload_id: found.upload_id, plan };
      const made = await Promise.all(begun);
      const digest = fromHex(found.plan_digest);
      const call = await core.seal(entry, digest, elements, found.rows, drawn, made, found.nonces.map(fromHex));
      assert.equal(hex(call.binding.requestDigest), found.request_digest);
      for (const party of [0, 1]) assert.equal(hex(core.context(call.binding, "input", party)), found.contexts[party]);
      assert.equal(hex(call.body), found.body);
    });
  }
});

async function callOf(found) {
  const plan = JSON.parse(found.plan);
  plan.output.size = plan.output.shape.reduce((product, one) => product * one, 1);
  const { upload_id, record_key = null, elements = [] } = found;
  const binding = {
    planDigest: await sha256(utf8(found.plan)),
    uploadId: fromHex(upload_id),
    requestId: fromHex(found.request_id),
    requestDigest: fromHex(found.request_digest),
    time: found.time,
  };
  const x = Elements.of(32, new Uint8Array(Int32Array.from(elements).buffer));
  return new core.Call({ plan, upload_id, record_key }, binding, found.rows, new Uint8Array(), found.result_keys.map(fromHex), x);
}

describe("results", () => {
  const { cases, refused } = read("results");

  for (const [at, found] of cases.entries()) {
    test(`case ${at}`, async () => {
      const call = await callOf(found);
      for (const party of [0, 1]) assert.equal(hex(core.context(call.binding, "result", party)), found.contexts[party]);
      assert.deepEqual(Array.from(await call.open(fromHex(found.body))), found.joined.flat());
      const { plan } = call.entry;
      assert.deepEqual(Array.from(core.joined(plan, fromHex(found.alice), fromHex(found.bob))), found.joined.flat());
    });
    test(`case ${at}: no changed byte passes`, async () => {
      const call = await callOf(found);
      for (const raw of flipped(fromHex(found.body))) await assert.rejects(call.open(raw), errors.ResultRejected);
    });
  }
  for (const [at, { case: number, body }] of refused.entries()) {
    test(`refuses case ${at}`, async () => {
      await assert.rejects((await callOf(cases[number])).open(fromHex(body)), errors.ResultRejected);
    });
  }
});

describe("verified runs", () => {
  const { cases, refused } = read("verified");
  for (const [at, found] of cases.entries()) {
    test(`case ${at}`, async () => {
      assert.deepEqual(Array.from(await (await callOf(found)).open(fromHex(found.body))), found.joined.flat());
    });
  }
  test("no changed byte passes", async () => {
    const [found] = cases;
    const [{ entry, elements }, said] = [await callOf(found), found.said.map(fromHex)];
    await core.accept(said, elements, found.rows, entry);
    for (const party of [0, 1]) {
      for (const raw of flipped(said[party])) {
        const told = said.map((one, who) => (who === party ? raw : one));
        await assert.rejects(core.accept(told, elements, found.rows, entry), errors.CheatingDetected);
      }
    }
  });
  for (const [at, { case: number, body, error }] of refused.entries()) {
    test(`refuses case ${at}: ${error}`, async () => {
      await assert.rejects((await callOf(cases[number])).open(fromHex(body)), errors[error]);
    });
  }
});

describe("problems", () => {
  for (const [at, found] of read("problems").cases.entries()) {
    test(`case ${at}`, () => {
      const problem = errors.Problem.fromDocument(found.document);
      assert.deepEqual([problem.type, problem.retryAfter], [found.problem, found.retry_after]);
      const error = errors.fromProblem(problem);
      assert.deepEqual([error.name, error.message], [found.error, found.text]);
      assert.ok(error instanceof errors[found.error]);
    });
  }
});

