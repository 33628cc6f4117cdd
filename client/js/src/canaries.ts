/** Canaries: inputs with known answers. The client mixes them among its own and checks their answers. */

import { labelsOf } from "./answers.js";
import { fromHex, randomBelow } from "./bytes.js";
import { Elements, type Encoded } from "./elements.js";
import { type Canary, type Column, type Entry, type Output, type Plan, size, type Table, width } from "./entry.js";
import { CanaryFailed, InvalidInput } from "./errors.js";
import { stream } from "./stream.js";

const MOST_OUTPUTS = 16;
const RARE = 8n; // one value in so many is missing, where a column may have missing values

/** The canaries of one call, by row. */
export type Placed = Map<number, Canary>;

/** Throws InvalidInput if so many canaries cannot be mixed in. */
export function checkOffered(entry: Entry, count: number): void {
  if (!Number.isSafeInteger(count) || count < 0) throw new InvalidInput("canaries is how many inputs with known answers to mix in");
  if (count && !entry.canaries.length) throw new InvalidInput("the model has no canaries: ask without them");
}

/** Mixes canaries among the encoded inputs, in rows that are drawn anew each time. */
export async function mixed(entry: Entry, own: Encoded, count: number): Promise<[Encoded, Placed]> {
  const placed: Placed = new Map();
  if (!count) return [own, placed];
  const total = own.rows + count;
  while (placed.size < count) {
    placed.set(randomBelow(total), entry.canaries[randomBelow(entry.canaries.length)]!);
  }
  const each = own.elements.length / own.rows;
  const elements = Elements.zeros(own.elements.bits, total * each);
  let next = 0;
  for (let row = 0; row < total; row++) {
    const canary = placed.get(row);
    const input = canary ? await expand(canary.seed, entry.plan, tableOf(entry)) : undefined;
    elements.put(input ?? own.elements.slice(next * each, (next + 1) * each), row * each);
    next += input ? 0 : 1;
  }
  return [{ ...own, rows: total, elements }, placed];
}

function tableOf(entry: Entry): Table | null {
  return entry.preprocessing?.kind === "table" ? entry.preprocessing : null;
}

/** The answers to the client's own inputs. Throws CanaryFailed if an answer to a canary is wrong. */
export function checkedAnswers(output: Output, values: Float64Array, placed: Placed): Float64Array {
  const rows = values.length / output.size;
  const answer = (row: number) => values.subarray(row * output.size, (row + 1) * output.size);
  const wrong = [...placed].filter(([row, canary]) => !fitsCanary(output, canary, answer(row)));
  if (wrong.length) {
    throw new CanaryFailed(
      `${wrong.length} of ${placed.size} inputs with known answers came back wrong: discard all answers of this service, and tell the model's owner`,
    );
  }
  const own = new Float64Array((rows - placed.size) * output.size);
  let next = 0;
  for (let row = 0; row < rows; row++) if (!placed.has(row)) own.set(answer(row), output.size * next++);
  return own;
}

export function fitsCanary(output: Output, canary: Canary, answer: Float64Array): boolean {
  if (canary.label !== null && labelsOf(output, answer)[0] !== canary.label) return false;
  if (output.kind !== "logits") return canary.label !== null;
  const told = places(answer.length);
  return (
    told.length === canary.outputs.length &&
    told.every((place, at) => Math.abs(answer[place]! - canary.outputs[at]!) <= canary.tolerance)
  );
}

/** The outputs that a canary tells, of a model with so many: all, or some spread evenly over them. */
export function places(outputs: number): number[] {
  const told = Math.min(outputs, MOST_OUTPUTS);
  return Array.from({ length: told }, (_, at) => Math.floor((at * outputs) / told));
}

/** The input that a seed stands for. It is computed with whole numbers, so it is the same on every machine. */
export async function expand(seed: string, plan: Plan, table: Table | null): Promise<Elements> {
  const count = table ? 2 * table.columns.length : size(plan.input.shape);
  const raw = await stream(fromHex(seed), ["canary"], table ? "row" : "input", 8 * count);
  const words = new BigUint64Array(raw.buffer);
  const made = Elements.zeros(plan.ring_bits, size(plan.input.shape));
  const { low, high, frac_bits: fracBits } = plan.input;
  if (table) {
    writeRow(table, words, 1n << BigInt(fracBits), made);
  } else {
    const [least, largest] = [Math.ceil(low * 2 ** fracBits), Math.floor(high * 2 ** fracBits)];
    words.forEach((word, at) => made.setWhole(at, within(word, BigInt(least), BigInt(largest))));
  }
  return made;
}

function within(word: bigint, least: bigint, largest: bigint): bigint {
  return (word % (largest - least + 1n)) + least;
}

function writeRow(table: Table, words: BigUint64Array, one: bigint, made: Elements): void {
  let start = 0;
  table.columns.forEach((column, at) => {
    const [word, rare] = [words[at]!, words[table.columns.length + at]!];
    rowOf(column, word, rare, one).forEach((value, place) => made.setWhole(start + place, value));
    start += width(column);
  });
}

function rowOf(column: Column, word: bigint, rare: bigint, one: bigint): bigint[] {
  const block = new Array<bigint>(width(column)).fill(0n);
  const below = (count: number) => Number(word % BigInt(count));
  if (column.missing === "flag" && rare % RARE === 0n) block[block.length - 1] = one;
  else if (column.kind === "number") block[0] = within(word, -one, one);
  else if (column.kind === "bins") block.fill(one, 0, below(column.edges.length + 1));
  else block[below(column.categories.length)] = one;
  return block;
}
