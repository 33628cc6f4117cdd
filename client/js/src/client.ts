/** The client: it reads the signed catalogue, sends a request until it is answered, and reads an entry again if it is old. */

import { type Access, readAccess } from "./access.js";
import { Prediction } from "./answers.js";
import { type Bytes, concat, hex, sha256 } from "./bytes.js";
import { checkedAnswers, checkOffered, mixed } from "./canaries.js";
import { describe } from "./description.js";
import { Elements } from "./elements.js";
import { type Entry } from "./entry.js";
import {
  CatalogueError,
  CatalogueUnavailable,
  EXPIRED,
  fromProblem,
  InvalidInput,
  KEY_RETIRED,
  NO_MODEL,
  NotVerified,
  Problem,
  QUOTA,
  ResultRejected,
  UNAVAILABLE,
  UnknownModel,
  UntrustedEntry,
} from "./errors.js";
import { decoded } from "./decoding.js";
import { type Bearer, type Call, Sealer } from "./exchange.js";
import { encodeInputs } from "./inputs.js";
import { type Others } from "./tables.js";
import { fetchOnce, type Fetched, type Fetching, wholeNumber } from "./transport.js";
import { believe, encrypted } from "./trust.js";
import { Vocabulary } from "./vocabulary.js";
import { MEDIA_TYPE, resultBytes } from "./wire.js";

export interface ClientOptions {
  /** The milliseconds that a call may take, with all its repetitions. The default is 30,000. */
  timeout?: number;
  /** Ask no model but verified ones, where a party that cheats is caught (else NotVerified). */
  requireVerified?: boolean;
  /** What sends requests, in place of the global `fetch`: `trusting(ca)` of "@moiety/client/node", say. */
  fetch?: typeof fetch;
}

export interface PredictOptions {
  /** Ends the call when it is aborted. */
  signal?: AbortSignal;
  /** How many inputs with known answers the client mixes among yours, to check the parties. */
  canaries?: number;
  /** What becomes of a table's columns that the model does not take. */
  columns?: Others;
  /** Whether to swap dark and light of pictures. Without it, the client swaps them in grey pictures that are not as the model takes them. */
  invert?: boolean | undefined;
  /** Is told of each request of the call when it is answered, so that a page can show what was sent. */
  watch?: (request: Watched) => void;
}

/** One request and its answer. Nothing of it may leave the page: the two shares together are the input. */
export interface Watched {
  entry: Entry;
  /** The input as ring elements of `plan.ring_bits` bits, little-endian, and the same of each party's share. */
  elements: Bytes;
  shares: [Bytes, Bytes];
  /** What was sealed for each party, behind its handshake, and the sealed share of the answer that each sent. */
  messages: [Bytes, Bytes];
  results: [Bytes, Bytes];
  /** The bytes of the whole request. */
  uploadBytes: number;
  downloadBytes: number;
  /** Milliseconds: to split and seal; from the request's first byte to the answer's last; alice's rounds with bob, as she says; to open. */
  seal: number;
  exchange: number;
  rounds: number | null;
  open: number;
}

const FIRST_PAUSE = 50; // milliseconds
const LEAST_TIME = 50;
const MOST_ENTRY_BYTES = 1 << 26;
const MOST_PROBLEM_BYTES = 1 << 16;

/** A client of one owner's models. Make one and use it again: it keeps entries, and handshakes for five minutes. */
export class Client {
  readonly #catalogue: string;
  readonly #ownerKey: string;
  readonly #who: Bearer;
  readonly #timeout: number;
  readonly #requireVerified: boolean;
  readonly #fetch: typeof fetch;
  readonly #sealers = new Map<string, Sealer>();
  readonly #revisions = new Map<string, number>();
  readonly #vocabularies = new Map<string, Vocabulary>();

  private constructor(access: Access, who: Bearer, options: ClientOptions) {
    this.#catalogue = encrypted(access.catalogue_url, "the catalogue");
    this.#ownerKey = access.owner_key;
    this.#who = who;
    this.#timeout = options.timeout ?? 30_000;
    this.#requireVerified = options.requireVerified ?? false;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  /** Makes a client of what the model's owner handed out: the access file's content, as text or parsed. Throws AccessFileError. */
  static async fromAccess(access: unknown, options: ClientOptions = {}): Promise<Client> {
    const { holder, ...members } = await readAccess(access);
    return new Client(members, { token: members.token, holder }, options);
  }

  /** The names of the published models. The list is not signed. Throws CatalogueError or one of its subclasses. */
  async names(options: { signal?: AbortSignal } = {}): Promise<string[]> {
    const text = await this.#read("/v1/models", MOST_ENTRY_BYTES, options.signal);
    try {
      return (JSON.parse(new TextDecoder().decode(text)) as { name: unknown }[]).map((one) => String(one.name));
    } catch {
      throw new CatalogueError("what answers is not a catalogue: check that the address is the model owner's server");
    }
  }

  /** The entries of all published models, each verified against the owner's key. Throws as `model` does. */
  async models(options: { signal?: AbortSignal } = {}): Promise<Entry[]> {
    const entries: Entry[] = [];
    for (const name of await this.names(options)) {
      try {
        entries.push(await this.model(name, { ...options, refresh: true }));
      } catch (error) {
        if (!(error instanceof UnknownModel)) throw error; // withdrawn since the list was read
      }
    }
    return entries;
  }

  /** A model's entry, verified against the owner's key. Throws CatalogueError or one of its subclasses. */
  async model(name: string, options: { signal?: AbortSignal; refresh?: boolean } = {}): Promise<Entry> {
    return (await this.#sealer(name, options.refresh ?? false, options.signal)).entry;
  }

  /** What a model takes and gives, in words, a line for each thing. Throws as `model` does. */
  async describe(name: string, options: { signal?: AbortSignal } = {}): Promise<string> {
    return describe(await this.model(name, options));
  }

  /**
   * Predicts privately for one input or several. `docs` of the package say which forms an input may have.
   *
   * Throws InvalidInput before it sends anything if an input does not fit the model, and otherwise the errors of this
   * package. Throws the signal's reason if the signal is aborted.
   */
  async predict(model: string, input: unknown, options: PredictOptions = {}): Promise<Prediction> {
    const started = performance.now();
    const deadline = started + this.#timeout;
    let problem: Problem | undefined;
    for (const refresh of [false, true]) {
      try {
        return await this.#asked(await this.#sealer(model, refresh, options.signal), input, options, started, deadline);
      } catch (error) {
        if (!(error instanceof Problem)) throw error; // else the entry was old
        problem = error;
      }
    }
    throw fromProblem(problem!);
  }

  async #asked(sealer: Sealer, input: unknown, options: PredictOptions, started: number, deadline: number): Promise<Prediction> {
    const { entry } = sealer;
    if (this.#requireVerified && !entry.plan.verified) {
      throw new NotVerified(`${entry.name} is not verified: ask its owner, or ask without requireVerified`);
    }
    if (entry.plan.output.kind === "count" || entry.plan.input.classes !== null) {
      throw new InvalidInput("the model gives counts over all inputs and no answers: this client asks for answers only");
    }
    checkOffered(entry, options.canaries ?? 0);
    const vocabulary = await this.#vocabulary(entry, options.signal);
    const own = encodeInputs(entry, await decoded(input), options.columns ?? "strict", vocabulary, options.invert);
    const [all, placed] = await mixed(entry, own, options.canaries ?? 0);
    const each = all.elements.length / all.rows;
    const parts: Float64Array[] = [];
    let [rounds, onlineBytes] = [0, 0];
    for (let first = 0; first < all.rows; first += entry.max_rows) {
      const rows = Math.min(entry.max_rows, all.rows - first);
      const elements = all.elements.slice(first * each, (first + rows) * each);
      const begun = performance.now();
      const call = await sealer.call(elements, rows);
      const [values, answer] = await this.#answer(sealer, call, begun, deadline, options);
      parts.push(values);
      rounds = Math.max(rounds, wholeNumber(answer.headers.get("moiety-rounds")));
      onlineBytes += wholeNumber(answer.headers.get("moiety-online-bytes"));
    }
    const { output } = entry.plan;
    const values = checkedAnswers(output, Float64Array.from(parts.flatMap((part) => [...part])), placed);
    const seconds = (performance.now() - started) / 1000;
    return new Prediction(output, values, entry.classes, rounds, onlineBytes, seconds, own.inverted);
  }

  /** Sends a request and opens its answer. If the request is too old for the parties, makes a new one, once. */
  async #answer(sealer: Sealer, call: Call, begun: number, deadline: number, options: PredictOptions): Promise<[Float64Array, Fetched]> {
    for (const isLast of [false, true]) {
      try {
        const sealed = performance.now();
        const answer = await this.#deliver(call, deadline, options.signal);
        const answered = performance.now();
        const values = await call.open(answer.body);
        if (options.watch) options.watch(watched(call, answer, [begun, sealed, answered, performance.now()]));
        return [values, answer];
      } catch (error) {
        if (!(error instanceof Problem) || error.type !== EXPIRED) throw error;
        if (isLast) throw fromProblem(error);
        begun = performance.now();
        call = await sealer.call(call.elements, call.rows);
      }
    }
    throw new ResultRejected("no answer");
  }

  /** Sends the very same request until it is answered. Throws Problem if the entry or the request is too old. */
  async #deliver(call: Call, deadline: number, signal?: AbortSignal): Promise<Fetched> {
    const url = `${call.entry.parties[0].url.replace(/\/+$/, "")}/v1/predictions`;
    const headers: Record<string, string> = { "content-type": MEDIA_TYPE };
    if (this.#who.token) headers.authorization = `Bearer ${this.#who.token}`;
    const most = resultBytes(call.entry.plan, call.rows);
    for (let pause = 0; ; ) {
      const timeout = Math.max(deadline - performance.now() - pause, LEAST_TIME);
      try {
        const how = { method: "POST", headers, body: call.body, signal, timeout, after: pause };
        return await this.#checked(url, how, Math.max(most, MOST_PROBLEM_BYTES), UNAVAILABLE);
      } catch (error) {
        if (!(error instanceof Problem) || [NO_MODEL, KEY_RETIRED, EXPIRED].includes(error.type)) throw error;
        pause = Math.min(Math.max(2 * pause, FIRST_PAUSE), 1000 * (error.retryAfter ?? 0));
        const isOver = error.retryAfter === null || error.type === QUOTA || performance.now() + pause > deadline;
        if (isOver) throw fromProblem(error);
      }
    }
  }

  /** Fetches an address. Throws the Problem that answers, or a problem of type `silent` if nobody does. */
  async #checked(url: string, how: Fetching, most: number, silent: string): Promise<Fetched> {
    const answer = await fetchOnce(this.#fetch, url, how, most, () => new Problem(silent, `${new URL(url).host} does not answer`));
    if (answer.ok) return answer;
    throw Problem.fromDocument(answer.document());
  }

  async #sealer(name: string, refresh: boolean, signal?: AbortSignal): Promise<Sealer> {
    const now = Date.now() / 1000;
    const kept = this.#sealers.get(name);
    if (kept && !refresh && kept.entry.expires > now) return kept;
    const text = new TextDecoder().decode(await this.#read(`/v1/models/${encodeURIComponent(name)}`, MOST_ENTRY_BYTES, signal));
    const seen = this.#revisions.get(name) ?? 0;
    const believed = await believe(text, { name, ownerKey: this.#ownerKey, seen, now });
    const sealer = await Sealer.of(believed, this.#who).catch(() => {
      throw new CatalogueError(`the entry of ${name} names a key of a party that is none: tell the model's owner`);
    });
    this.#revisions.set(name, Math.max(believed.entry.revision, this.#revisions.get(name) ?? 0));
    this.#sealers.set(name, sealer);
    return sealer;
  }

  /** Reads from the catalogue. Throws UnknownModel, CatalogueUnavailable or CatalogueError. */
  async #read(path: string, most: number, signal?: AbortSignal): Promise<Fetched["body"]> {
    const unavailable = "urn:moiety:error:catalogue-unavailable";
    try {
      const how = { method: "GET", headers: {}, signal, timeout: this.#timeout, after: 0 };
      return (await this.#checked(`${this.#catalogue}${path}`, how, most, unavailable)).body;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.type === NO_MODEL) throw fromProblem(error);
      if (error.type !== unavailable) throw new CatalogueError(`${error.message}. ${error.hint}`);
      throw new CatalogueUnavailable(
        "the catalogue does not answer: check that the model owner's server runs, that the access file has its address, and that this program trusts its CA",
      );
    }
  }

  /** The table of a model that takes ids, read once, unless it is secret. Throws UntrustedEntry if it is not the one that the entry names. */
  async #vocabulary(entry: Entry, signal?: AbortSignal): Promise<Vocabulary | undefined> {
    const how = entry.preprocessing;
    if (how?.kind === "secret_tokens") return new Vocabulary(how, new Uint8Array());
    if (how?.kind !== "tokens") return undefined;
    const kept = this.#vocabularies.get(how.table.digest);
    if (kept && JSON.stringify(kept.how) === JSON.stringify(how)) return kept;
    const place = `${encodeURIComponent(entry.name)}/versions/${entry.version}/files/${how.table.digest}`;
    const table = await this.#read(`/v1/models/${place}`, how.table.size, signal);
    if (table.length !== how.table.size || hex(await sha256(table)) !== how.table.digest) {
      throw new UntrustedEntry(`the catalogue gave another file of ${entry.name} than its owner signed: ask the owner who changed it`);
    }
    const made = new Vocabulary(how, table);
    this.#vocabularies.set(how.table.digest, made);
    return made;
  }
}

/** What `watch` is told. `times` are when the call was begun, sealed, answered and opened. */
function watched(call: Call, answer: Fetched, times: [number, number, number, number]): Watched {
  const [begun, sealed, answered, opened] = times;
  const rounds = /rounds;dur=(\d{1,9}(?:\.\d{1,9})?)/.exec(answer.headers.get("server-timing") ?? "");
  return {
    entry: call.entry,
    elements: call.elements.bytes,
    shares: [call.share.bytes, call.elements.minus(Elements.of(call.elements.bits, call.share.bytes)).bytes],
    messages: [concat(...call.messages[0]), concat(...call.messages[1])],
    results: call.results(answer.body),
    uploadBytes: call.body.length,
    downloadBytes: answer.body.length,
    seal: sealed - begun,
    exchange: answered - sealed,
    rounds: rounds && Number(rounds[1]) > 0 ? Number(rounds[1]) : null,
    open: opened - answered,
  };
}
