/** One HTTP request, with a limit on its time and on the size of its answer. */

import { type Bytes, concat } from "./bytes.js";
import { Problem } from "./errors.js";

export interface Fetching {
  method: string;
  headers: Record<string, string>;
  body?: Bytes;
  signal?: AbortSignal | undefined;
  /** Milliseconds. */
  timeout: number;
  /** Milliseconds to wait before it is sent. */
  after: number;
}

/** An answer, read to its end. */
export class Fetched {
  constructor(
    readonly ok: boolean,
    readonly headers: Headers,
    readonly body: Bytes,
  ) {}

  /** The problem document in it, or null: a stranger may have answered. */
  document(): unknown {
    if (!this.headers.get("content-type")?.startsWith("application/problem+json")) return null;
    try {
      return JSON.parse(new TextDecoder().decode(this.body));
    } catch {
      return null;
    }
  }
}

/** Sends a request. Throws the signal's reason if it is aborted, and what `silent` makes if no whole answer comes in time. */
export async function fetchOnce(
  send: typeof fetch,
  url: string,
  how: Fetching,
  most: number,
  silent: () => Problem,
): Promise<Fetched> {
  how.signal?.throwIfAborted();
  if (how.after) await sleep(how.after, how.signal);
  const limit = AbortSignal.timeout(Math.ceil(how.timeout));
  const signal = how.signal ? AbortSignal.any([how.signal, limit]) : limit;
  const own = { credentials: "omit", redirect: "error", cache: "no-store", referrerPolicy: "no-referrer" } as const;
  try {
    const { method, headers, body = null } = how;
    const response = await send(url, { method, headers, body, signal, ...own });
    return new Fetched(response.ok, response.headers, await readAtMost(response, most));
  } catch {
    how.signal?.throwIfAborted();
    throw silent();
  }
}

/** Reads a body of at most so many bytes. Throws for a longer one, and reads no more of it. */
async function readAtMost(response: Response, most: number): Promise<Bytes> {
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  let count = 0;
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done || !value) return concat(...parts);
    count += value.length;
    if (count > most) {
      await reader!.cancel();
      throw new RangeError("the answer is too long");
    }
    parts.push(value);
  }
}

function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", end, { once: true });
  });
}

/** The number in a header; 0 where it is missing or no number. */
export function wholeNumber(text: string | null): number {
  return text !== null && /^\d{1,15}$/.test(text) ? Number(text) : 0;
}
