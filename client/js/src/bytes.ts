/** Bytes, the numbers in them, and the texts that stand for them. */

export type Bytes = Uint8Array<ArrayBuffer>;

export function utf8(text: string): Bytes {
  return new TextEncoder().encode(text);
}

export function concat(...parts: Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A whole number below 2^32, little-endian. */
export function u32(value: number): Bytes {
  const raw = new Uint8Array(4);
  new DataView(raw.buffer).setUint32(0, value, true);
  return raw;
}

/** A whole number, little-endian in 8 bytes; as a number below 2^53. */
export function u64(value: number | bigint): Bytes {
  const raw = new Uint8Array(8);
  new DataView(raw.buffer).setBigUint64(0, BigInt(value), true);
  return raw;
}

export function readU32(raw: Uint8Array, at: number): number {
  return new DataView(raw.buffer, raw.byteOffset, raw.byteLength).getUint32(at, true);
}

/** Compares public bytes: it takes no constant time. */
export function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

export function hex(raw: Uint8Array): string {
  return Array.from(raw, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Reads hex digits in lower case. Throws SyntaxError for anything else. */
export function fromHex(text: string): Bytes {
  if (text.length % 2 || !/^[0-9a-f]*$/.test(text)) throw new SyntaxError("not hex");
  return Uint8Array.from({ length: text.length / 2 }, (_, at) => parseInt(text.slice(2 * at, 2 * at + 2), 16));
}

/** Base64url with its padding. */
export function base64url(raw: Uint8Array): string {
  return btoa(String.fromCharCode(...raw)).replaceAll("+", "-").replaceAll("/", "_");
}

/** Reads base64url with its padding. Throws SyntaxError for anything but the one encoding of some bytes. */
export function fromBase64url(text: string): Bytes {
  if (!/^[A-Za-z0-9_-]*=*$/.test(text) || text.length % 4) throw new SyntaxError("not base64url");
  const raw = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
  if (base64url(raw) !== text) throw new SyntaxError("not the canonical encoding of these bytes");
  return raw;
}

/** Bytes from the system's generator. */
export function random(count: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(count));
}

/** A whole number from 0 to `limit` - 1, each as likely as the others. */
export function randomBelow(limit: number): number {
  const fair = 2 ** 32 - (2 ** 32 % limit);
  for (;;) {
    const drawn = readU32(random(4), 0);
    if (drawn < fair) return drawn % limit;
  }
}

export async function sha256(...parts: Uint8Array[]): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}
