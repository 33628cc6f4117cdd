/**
 * How ids of tokens become a model's input: the client looks each up in a public table of the owner's, or shares its
 * digits, and the parties look it up in a secret one.
 */

import { type Bytes } from "./bytes.js";
import { type Encoded, encode } from "./elements.js";
import { encodingOf, type Plan, type SecretTokens, size, type Tokens } from "./entry.js";
import { InvalidInput } from "./errors.js";

export class Vocabulary {
  readonly #table: Int16Array;

  /** `table` is the file beside the entry, whose digest is right, or empty where the table is secret. */
  constructor(
    readonly how: Tokens | SecretTokens,
    table: Bytes,
  ) {
    this.#table = new Int16Array(table.slice().buffer);
  }

  /** Encodes the ids of one input, or a list of inputs. Throws InvalidInput. */
  encode(given: unknown, plan: Plan): Encoded {
    const { how } = this;
    const inputs = isIds(given) ? [given] : given;
    if (!Array.isArray(inputs) || !inputs.length || !inputs.every(isIds)) {
      throw new InvalidInput("pass ids of tokens: a list of whole numbers for each input; this client makes none of a text");
    }
    const width = size(plan.input.shape) / how.length;
    const values = new Float64Array(inputs.length * how.length * width);
    inputs.forEach((ids, row) => {
      this.#check(ids, row);
      for (let place = 0; place < how.length; place++) {
        const id = ids[place] ?? how.pad_id!;
        for (let at = 0; at < width; at++) {
          values[(row * how.length + place) * width + at] =
            how.kind === "tokens"
              ? this.#table[id * width + at]! * how.step
              : Math.floor(id / size(how.digits.slice(at + 1))) % how.digits[at]!;
        }
      }
    });
    return { rows: inputs.length, elements: encode(values, encodingOf(plan)) };
  }

  #check(ids: ArrayLike<number>, row: number): void {
    const { length, vocabulary, pad_id: pad } = this.how;
    const refuse = (what: string, column: number | null = null): never => {
      throw new InvalidInput(`row ${row}${what}`, { rows: [row], column });
    };
    if (!ids.length) refuse(" has no ids: leave it out");
    if (ids.length > length) refuse(` has more than ${length} ids: shorten it`);
    if (ids.length < length && pad === null) refuse(` has fewer than ${length} ids: the model pads none`);
    const wrong = Array.from(ids).findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary));
    if (wrong >= 0) refuse(`, place ${wrong} is no id: ids are whole numbers from 0 to ${vocabulary - 1}`, wrong);
  }
}

function isIds(given: unknown): given is ArrayLike<number> {
  if (Array.isArray(given)) return given.every((one) => typeof one === "number");
  return given instanceof Int32Array || given instanceof Uint32Array || given instanceof Uint16Array;
}
