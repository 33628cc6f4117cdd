/** The access file: all that a client needs to reach an owner's models. */

import { fromBase64url } from "./bytes.js";
import { AccessFileError } from "./errors.js";
import { Holder } from "./signing.js";

export interface Access {
  catalogue_url: string;
  /** The owner's Ed25519 public key: the client believes only what it signed. */
  owner_key: string;
  /** The CA of the deployment in PEM form, or nothing for those that the system trusts. */
  ca: string;
  token: string;
}

const FORMATS = [1, 2];

/** Reads what an access file holds, and the key to which its token is bound. Throws AccessFileError. */
export async function readAccess(given: unknown): Promise<Access & { holder: Holder | null }> {
  const found = members(given);
  if (!FORMATS.includes((found.format ?? 2) as number)) {
    throw new AccessFileError("the access file has another version than this release reads: upgrade the older side");
  }
  const [catalogue_url, owner_key, ca, token, key] = ["catalogue_url", "owner_key", "ca", "token", "key"].map((name) => {
    const value = found[name] ?? "";
    if (typeof value !== "string") throw new AccessFileError("this is not an access file: ask the model's owner for one");
    return value;
  }) as [string, string, string, string, string];
  if (!catalogue_url || !isKey(owner_key)) {
    throw new AccessFileError("the access file names no catalogue, or no key of its owner: ask the model's owner for a new one");
  }
  const holder = await holderOf(key);
  return { catalogue_url, owner_key, ca, token, holder };
}

function members(given: unknown): Record<string, unknown> {
  let found = given;
  if (typeof given === "string") {
    try {
      found = JSON.parse(given);
    } catch {
      found = null;
    }
  }
  if (typeof found !== "object" || found === null) {
    throw new AccessFileError("pass the content of the access file, as text or parsed");
  }
  return found as Record<string, unknown>;
}

function isKey(text: string): boolean {
  try {
    return fromBase64url(text).length === 32;
  } catch {
    return false;
  }
}

async function holderOf(pem: string): Promise<Holder | null> {
  if (!pem) return null;
  try {
    return await Holder.fromPem(pem);
  } catch {
    throw new AccessFileError("the key in the access file is not the PEM of an Ed25519 private key: ask the model's owner for a new one");
  }
}
