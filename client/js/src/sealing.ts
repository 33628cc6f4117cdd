/** Seals: bytes that one recipient can open, bound to the context in which they were sealed. */

import { Aes128Gcm, CipherSuite, HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";

import { type Bytes, concat, fromBase64url, sha256 } from "./bytes.js";

const KEY_BYTES = 1216; // ML-KEM-768's and X25519's public keys
export const SEAL_OVERHEAD = 1144; // the key's id (8), the encapsulated key (1120) and the tag (16)
export const NONCE_BYTES = 12;
export const CIPHER_OVERHEAD = 28; // the nonce and the tag

/** HPKE (RFC 9180) with X-Wing, HKDF-SHA256 and AES-128-GCM. */
export function suite(): CipherSuite {
  return new CipherSuite({ kem: new XWing(), kdf: new HkdfSha256(), aead: new Aes128Gcm() });
}

/** A party's sealing key. */
export class SealingKey {
  private constructor(
    readonly id: Bytes,
    private readonly key: CryptoKey,
    private readonly cipher: CipherSuite,
  ) {}

  /** Reads the key of a catalogue entry. Throws if it is none. */
  static async of(text: string): Promise<SealingKey> {
    const raw = fromBase64url(text);
    if (raw.length !== KEY_BYTES) throw new SyntaxError("not a sealing key");
    const cipher = suite();
    const key = await cipher.kem.deserializePublicKey(raw.buffer);
    const made = new SealingKey((await sha256(raw)).slice(0, 8), key as CryptoKey, cipher);
    await made.seal(new Uint8Array(), new Uint8Array()); // some points make no key: who reads it learns it here
    return made;
  }

  /** Seals a message: only the private key opens it, and only under the same `info`. */
  async seal(message: Bytes, info: Bytes): Promise<Bytes> {
    const recipient = { recipientPublicKey: this.key, info: info.slice().buffer };
    const { enc, ct } = await this.cipher.seal(recipient, message.slice().buffer);
    return concat(this.id, new Uint8Array(enc), new Uint8Array(ct));
  }
}

/** An AES-256-GCM key that no program can read again. */
export async function cipherKey(raw: Bytes, use: "encrypt" | "decrypt"): Promise<CryptoKey> {
  return crypto.subtle.importKey("raw", raw, "AES-GCM", false, [use]);
}

/** AES-GCM's ciphertext and tag. The nonce goes before it. */
export async function encrypt(key: CryptoKey, nonce: Bytes, message: Bytes, context: Bytes): Promise<Bytes> {
  const how = { name: "AES-GCM", iv: nonce, additionalData: context };
  return new Uint8Array(await crypto.subtle.encrypt(how, key, message));
}

/** Opens a nonce and the ciphertext after it. Throws if any bit of it, or the context, differs. */
export async function decrypt(key: CryptoKey, sealed: Bytes, context: Bytes): Promise<Bytes> {
  const how = { name: "AES-GCM", iv: sealed.slice(0, NONCE_BYTES), additionalData: context };
  return new Uint8Array(await crypto.subtle.decrypt(how, key, sealed.slice(NONCE_BYTES)));
}
