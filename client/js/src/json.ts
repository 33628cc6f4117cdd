/**
 * Canonical JSON: the text that the owner signs (docs/spec/client.md).
 *
 * JSON.parse forgets whether a number was written as 8 or 8.0, which have different signatures. So this parser keeps it.
 */

/** A number as it came. `whole` says that it had neither a point nor an exponent. */
class Numeral {
  constructor(
    readonly text: string,
    readonly whole: boolean,
  ) {}

  canonical(): string {
    return this.whole ? (this.text === "-0" ? "0" : this.text) : double(Number(this.text));
  }

  plain(): number | bigint {
    const value = Number(this.text);
    return this.whole && !Number.isSafeInteger(value) ? BigInt(this.text) : value;
  }
}

type Members = Map<string, Json>;
export type Json = null | boolean | string | Numeral | Json[] | Members;

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
// eslint-disable-next-line no-control-regex
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const WORDS: [string, Json][] = [
  ["true", true],
  ["false", false],
  ["null", null],
];

/** Reads a JSON text. Throws SyntaxError for anything else, and RangeError if it is nested too deeply. */
export function parse(text: string): Json {
  const reader = new Reader(text);
  const value = reader.value();
  reader.skip();
  if (!reader.ended) throw new SyntaxError("more than one JSON value");
  return value;
}

class Reader {
  #at = 0;

  constructor(readonly text: string) {}

  get ended(): boolean {
    return this.#at === this.text.length;
  }

  skip(): void {
    this.#match(SPACE);
  }

  value(): Json {
    this.skip();
    if (this.#takes("{")) return this.#members();
    if (this.#takes("[")) return this.#list();
    const string = this.#match(STRING);
    if (string) return wellFormed(JSON.parse(string[0]) as string);
    const number = this.#match(NUMBER);
    if (number) return new Numeral(number[0], number[1] === undefined && number[2] === undefined);
    for (const [word, meaning] of WORDS) if (this.#takes(word)) return meaning;
    throw new SyntaxError("not JSON");
  }

  #members(): Members {
    const members: Members = new Map();
    this.skip();
    if (this.#takes("}")) return members;
    do {
      this.skip();
      const name = this.#match(STRING);
      this.skip();
      if (!name || !this.#takes(":")) throw new SyntaxError("not JSON");
      members.set(wellFormed(JSON.parse(name[0]) as string), this.value());
      this.skip();
    } while (this.#takes(","));
    if (!this.#takes("}")) throw new SyntaxError("not JSON");
    return members;
  }

  #list(): Json[] {
    const list: Json[] = [];
    this.skip();
    if (this.#takes("]")) return list;
    do {
      list.push(this.value());
      this.skip();
    } while (this.#takes(","));
    if (!this.#takes("]")) throw new SyntaxError("not JSON");
    return list;
  }

  #takes(word: string): boolean {
    const taken = this.text.startsWith(word, this.#at);
    if (taken) this.#at += word.length;
    return taken;
  }

  #match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text);
    if (found) this.#at += found[0].length;
    return found;
  }
}

function wellFormed(text: string): string {
  if (/\p{Surrogate}/u.test(text)) throw new SyntaxError("a string is not Unicode");
  return text;
}

/** The one text of a value that is signed and hashed. */
export function canonical(value: Json): string {
  if (value instanceof Numeral) return value.canonical();
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value instanceof Map) {
    const sorted = [...value].sort(([one], [other]) => byCodePoint(one, other));
    return `{${sorted.map(([name, member]) => `${JSON.stringify(name)}:${canonical(member)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

function byCodePoint(one: string, other: string): number {
  const [a, b] = [Array.from(one), Array.from(other)];
  const at = a.findIndex((letter, place) => letter !== b[place]);
  return at < 0 || at >= b.length ? a.length - b.length : a[at]!.codePointAt(0)! - b[at]!.codePointAt(0)!;
}

/** A double as Python writes it: as few digits as read back as the same double, and a point or an exponent. */
function double(value: number): string {
  if (!Number.isFinite(value)) throw new SyntaxError("a number is too large");
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const [mantissa, power] = Math.abs(value).toExponential().split("e") as [string, string];
  const digits = mantissa.replace(".", "");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

/** The value as JSON.parse gives it, but whole numbers beyond 2^53 are bigints. */
export function plain(value: Json): unknown {
  if (value instanceof Numeral) return value.plain();
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Map) return Object.fromEntries([...value].map(([name, member]) => [name, plain(member)]));
  return value;
}
