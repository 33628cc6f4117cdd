/**
 * Ed25519: the owner's signatures, and the key to which a token is bound.
 *
 * WebCrypto does it where it can, with a private key that no program can read again. Chrome before 137 cannot: there
 * @noble/ed25519 does, and the key lies in memory.
 */

import { getPublicKeyAsync, signAsync, verifyAsync } from "@noble/ed25519";

import { type Bytes, concat, equal, fromBase64url, fromHex } from "./bytes.js";

const ED25519 = "Ed25519";
const PKCS8 = fromHex("302e020100300506032b657004220420"); // what stands before the 32 bytes of the private key
const SEED_BYTES = 32;

/** Whether the key signed the message. */
export async function verifies(key: Bytes, signature: Bytes, message: Bytes): Promise<boolean> {
  if (key.length !== 32 || signature.length !== 64) return false;
  try {
    const own = await crypto.subtle.importKey("raw", key, ED25519, false, ["verify"]);
    return await crypto.subtle.verify(ED25519, own, signature, message);
  } catch (error) {
    if (!isMissing(error)) return false;
    return verifyAsync(signature, message, key, { zip215: false });
  }
}

/** The key to which a token is bound. It signs, and shows no more than its public half. */
export class Holder {
  private constructor(
    readonly publicKey: Bytes,
    readonly sign: (message: Bytes) => Promise<Bytes>,
  ) {}

  /** Reads the PEM (PKCS #8) of a private key. Throws if it is none. */
  static async fromPem(pem: string): Promise<Holder> {
    const found = /^-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----\s*$/.exec(pem);
    if (!found) throw new SyntaxError("not a private key in PEM form");
    const der = Uint8Array.from(atob(found[1]!.replace(/\s/g, "")), (one) => one.charCodeAt(0));
    if (der.length !== PKCS8.length + SEED_BYTES || !equal(der.slice(0, PKCS8.length), PKCS8)) {
      throw new SyntaxError("not an Ed25519 private key");
    }
    try {
      return await Holder.#ofWebCrypto(der);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
    const seed = der.slice(PKCS8.length);
    const publicKey = (await getPublicKeyAsync(seed)).slice();
    return new Holder(publicKey, async (message) => (await signAsync(message, seed)).slice());
  }

  static async #ofWebCrypto(der: Bytes): Promise<Holder> {
    const readable = await crypto.subtle.importKey("pkcs8", der, ED25519, true, ["sign"]);
    const { x } = await crypto.subtle.exportKey("jwk", readable); // the public half, which WebCrypto tells in no other way
    const key = await crypto.subtle.importKey("pkcs8", der, ED25519, false, ["sign"]);
    const sign = async (message: Bytes) => new Uint8Array(await crypto.subtle.sign(ED25519, key, message));
    return new Holder(fromBase64url(`${x}=`), sign);
  }

  /** The public key and the signature: the proof that whoever holds the key made the statement. */
  async prove(statement: Bytes): Promise<Bytes> {
    return concat(this.publicKey, await this.sign(statement));
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && error.name === "NotSupportedError";
}
