/** What a client believes of a catalogue: entries that the pinned key signed, and none older than one that it has seen. */

import { type Bytes, concat, fromBase64url, sha256, utf8 } from "./bytes.js";
import { checked, type Entry, FORMATS } from "./entry.js";
import { CatalogueError, ExpiredEntry, InsecureAddress, MoietyError, UntrustedEntry } from "./errors.js";
import { canonical, type Json, parse, plain } from "./json.js";
import { verifies } from "./signing.js";

const LABEL = utf8("moiety/v1 catalogue entry\0");

/** An entry that was believed, and the digest by which requests name its plan. */
export interface Believed {
  entry: Entry;
  planDigest: Bytes;
}

/** What a client asks for, and what it knows: the owner's key, the highest revision seen, and the time in seconds. */
export interface Asked {
  name: string;
  ownerKey: string;
  seen: number;
  now: number;
}

/** Reads a catalogue's answer. Throws CatalogueError, one of its subclasses, or InsecureAddress. */
export async function believe(text: string, asked: Asked): Promise<Believed> {
  try {
    return await read(text, asked);
  } catch (error) {
    if (error instanceof MoietyError) throw error;
    throw new CatalogueError(
      "what answers is not a catalogue that this client can read: check that it is the model owner's server, and that it runs this version of moiety",
    );
  }
}

async function read(text: string, asked: Asked): Promise<Believed> {
  const signed = parse(text);
  const [entry, key, signature] = ["entry", "owner_key", "signature"].map((name) => member(signed, name));
  if ((signed as Map<string, Json>).size !== 3) throw new TypeError("not a signed entry");
  const plan = member(entry, "plan");
  for (const [what, found] of [["entry", entry], ["plan", plan]] as const) {
    if (plain(member(found, "format")) !== FORMATS[what]) {
      throw new CatalogueError(`the catalogue's ${what} has another version than this release reads: upgrade the older side`);
    }
  }
  const statement = concat(LABEL, utf8(canonical(entry!)));
  const signs = typeof signature === "string" && (await verifies(fromBase64url(asked.ownerKey), base64(signature), statement));
  if (key !== asked.ownerKey || !signs) {
    throw new UntrustedEntry(
      "the catalogue entry is not signed by the owner's key: compare your key with the owner's; if they are equal, somebody changed the catalogue",
    );
  }
  const found = checked(plain(entry!));
  checkCurrent(found, asked);
  encrypted(found.parties[0].url, "alice");
  return { entry: found, planDigest: await sha256(utf8(canonical(plan))) };
}

function member(found: Json | undefined, name: string): Json {
  const value = found instanceof Map ? found.get(name) : undefined;
  if (value === undefined) throw new TypeError(`there is no ${name}`);
  return value;
}

function base64(text: string): Bytes {
  try {
    return fromBase64url(text);
  } catch {
    return new Uint8Array();
  }
}

function checkCurrent(entry: Entry, asked: Asked): void {
  const who = "ask the owner who changed it";
  if (entry.name !== asked.name) throw new UntrustedEntry(`the catalogue gave another model for ${asked.name}: ${who}`);
  if (!entry.active) throw new UntrustedEntry(`the catalogue gave a version of ${asked.name} that is not the active one: ${who}`);
  if (entry.revision < asked.seen) {
    const told = `revision ${entry.revision}, not ${asked.seen}`;
    throw new UntrustedEntry(`the catalogue gave an older entry of ${asked.name} than before (${told}): ${who}`);
  }
  if (entry.expires <= asked.now) {
    throw new ExpiredEntry(
      `the entry of ${asked.name} expired: the owner renews it; if they did, check this machine's clock, or ask them who shows you an old entry`,
    );
  }
}

/** The URL without a slash at its end. Throws InsecureAddress for plain HTTP to another machine. */
export function encrypted(url: string, what: string): string {
  const parts = URL.canParse(url) ? new URL(url) : undefined;
  const local = parts && /^(localhost|127(\.\d+){3}|\[::1\])$/.test(parts.hostname);
  if (parts?.protocol !== "https:" && !(parts?.protocol === "http:" && local)) {
    throw new InsecureAddress(`the address of ${what} must begin with https://: a token must not travel unencrypted`);
  }
  return url.replace(/\/+$/, "");
}
