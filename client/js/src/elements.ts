/** Real numbers as ring elements, and additive shares of them. A real x becomes round(x * 2^f) modulo 2^k. */

import { type Bytes } from "./bytes.js";

/** Ring elements of k bits, as 32-bit words, the low word of an element first. */
export class Elements {
  /** Every platform with WebCrypto stores words little-endian, as the wire has them. */
  constructor(
    readonly bits: 32 | 64,
    readonly words: Int32Array<ArrayBuffer>,
  ) {}

  static zeros(bits: 32 | 64, count: number): Elements {
    return new Elements(bits, new Int32Array((count * bits) / 32));
  }

  static of(bits: 32 | 64, raw: Bytes): Elements {
    return new Elements(bits, new Int32Array(raw.slice().buffer));
  }

  get length(): number {
    return (this.words.length * 32) / this.bits;
  }

  get bytes(): Bytes {
    return new Uint8Array(this.words.buffer, this.words.byteOffset, this.words.byteLength);
  }

  slice(start: number, end: number): Elements {
    const each = this.bits / 32;
    return new Elements(this.bits, this.words.slice(start * each, end * each));
  }

  /** Copies elements to the place `at`. */
  put(others: Elements, at: number): void {
    this.words.set(others.words, (at * this.bits) / 32);
  }

  /** Copies the element at `from` of others to the place `at`. */
  copy(others: Elements, from: number, at: number): void {
    if (this.bits === 32) {
      this.words[at] = others.words[from]!;
    } else {
      this.words[2 * at] = others.words[2 * from]!;
      this.words[2 * at + 1] = others.words[2 * from + 1]!;
    }
  }

  /** Writes a whole number, that a double holds, to the place `at`. */
  set(at: number, value: number): void {
    if (this.bits === 32) {
      this.words[at] = value;
    } else {
      const high = Math.floor(value / WORD);
      this.words[2 * at] = value - high * WORD;
      this.words[2 * at + 1] = high;
    }
  }

  /** Writes any whole number of k bits to the place `at`. */
  setWhole(at: number, value: bigint): void {
    const each = this.bits / 32;
    for (let word = 0; word < each; word++) {
      this.words[each * at + word] = Number(BigInt.asIntN(32, value >> BigInt(32 * word)));
    }
  }

  /** The element at that place, as the nearest double. */
  get(at: number): number {
    if (this.bits === 32) return this.words[at]!;
    return this.words[2 * at + 1]! * WORD + (this.words[2 * at]! >>> 0);
  }

  plus(others: Elements): Elements {
    const [one, other, made] = [this.words, others.words, new Int32Array(this.words.length)];
    if (this.bits === 32) {
      for (let at = 0; at < made.length; at++) made[at] = one[at]! + other[at]!;
    } else {
      for (let at = 0; at < made.length; at += 2) {
        const low = (one[at]! >>> 0) + (other[at]! >>> 0);
        made[at] = low;
        made[at + 1] = one[at + 1]! + other[at + 1]! + (low >= WORD ? 1 : 0);
      }
    }
    return new Elements(this.bits, made);
  }

  /** This minus a stream, which is overwritten with the difference: another copy of a batch takes longer than its cipher. */
  minus(stream: Elements): Elements {
    const [one, made] = [this.words, stream.words];
    if (this.bits === 32) {
      for (let at = 0; at < made.length; at++) made[at] = one[at]! - made[at]!;
    } else {
      for (let at = 0; at < made.length; at += 2) {
        const low = (one[at]! >>> 0) - (made[at]! >>> 0);
        made[at] = low;
        made[at + 1] = one[at + 1]! - made[at + 1]! - (low < 0 ? 1 : 0);
      }
    }
    return stream;
  }
}

const WORD = 2 ** 32;

/** Encoded inputs: `rows` of them. `inverted` is how many pictures were turned from dark on light, or the reverse. */
export interface Encoded {
  rows: number;
  elements: Elements;
  inverted?: number;
}

/** How a plan encodes the values of its input. */
export interface Encoding {
  fracBits: number;
  ringBits: 32 | 64;
  low: number;
  high: number;
}

/** Half a unit: a range whose ends were rounded must still accept these ends. */
export function grace(how: Encoding): number {
  return 0.5 * 2 ** -how.fracBits;
}

/** Whether the ring holds every value of the range. */
export function fits(how: Encoding): boolean {
  return Math.max(Math.abs(how.low), Math.abs(how.high)) * 2 ** how.fracBits < 2 ** (how.ringBits - 1);
}

/** Whether a value is a number within the range, or so near that rounding takes it there. */
export function inRange(value: number, how: Encoding): boolean {
  return value >= how.low - grace(how) && value <= how.high + grace(how);
}

/** Encodes values that are all in range. */
export function encode(values: ArrayLike<number>, how: Encoding): Elements {
  const made = Elements.zeros(how.ringBits, values.length);
  const scale = 2 ** how.fracBits;
  for (let at = 0; at < values.length; at++) made.set(at, rint(values[at]! * scale));
  return made;
}

/** The nearest whole number; of two that are as near, the even one. */
export function rint(x: number): number {
  const rounded = Math.round(x);
  return Math.abs(x % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
