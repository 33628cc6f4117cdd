/** Streams of pseudo-random words: AES-128 in counter mode under keys that HKDF-Expand derives from a seed. */

import { type Bytes, concat, u32, utf8 } from "./bytes.js";

export const SEED_BYTES = 32;

/** The first `count` bytes of the stream with that address and name. */
export async function stream(seed: Bytes, address: (string | number)[], name: string, count: number): Promise<Bytes> {
  const key = await crypto.subtle.importKey("raw", await derived(seed, [...address, name]), "AES-CTR", false, ["encrypt"]);
  const counter = { name: "AES-CTR", counter: new Uint8Array(16), length: 128 };
  return new Uint8Array(await crypto.subtle.encrypt(counter, key, new Uint8Array(count)));
}

/** One block of HKDF-Expand (RFC 5869), cut to the 16 bytes of a key. WebCrypto's HKDF would extract first. */
async function derived(seed: Bytes, parts: (string | number)[]): Promise<Bytes> {
  const info = parts.map((part) => {
    const text = utf8(String(part));
    return concat(utf8(typeof part === "number" ? "i" : "s"), u32(text.length), text);
  });
  const key = await crypto.subtle.importKey("raw", seed, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const block = await crypto.subtle.sign("HMAC", key, concat(utf8("moiety/v1 stream"), ...info, Uint8Array.of(1)));
  return new Uint8Array(block, 0, 16).slice();
}
