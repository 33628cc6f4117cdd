/**
 * Inputs, in the forms that programs have them, as ring elements.
 *
 * typed array, nested list         numbers of the model's own input, one input or several
 * Uint8Array                       pixels, exactly of the model's size; or a list of such
 * ImageData                        a picture of any size; or a list of such
 * object, list of objects          the inputs of a model of several, by name; rows of a table, by column
 * list of ids, list of lists       ids of tokens, for a model that takes them
 */

import { type Encoded, encode, inRange } from "./elements.js";
import { encodingOf, type Entry, type Input, type InputPart, type Plan, size } from "./entry.js";
import { InvalidInput } from "./errors.js";
import { isPixels, pixelElements } from "./pictures.js";
import { tableElements, type Others } from "./tables.js";
import { type Vocabulary } from "./vocabulary.js";

/** Encodes what was given for a model. Throws InvalidInput. */
export function encodeInputs(entry: Entry, given: unknown, others: Others, vocabulary?: Vocabulary, invert?: boolean): Encoded {
  const { plan, preprocessing: how } = entry;
  if (how?.kind === "table") return tableElements(how, plan, given, others);
  if (vocabulary) return vocabulary.encode(given, plan);
  if (isPixels(given)) {
    if (how?.kind !== "picture") throw new InvalidInput("the model does not take pictures: pass numbers");
    return pixelElements(how, plan, given, invert);
  }
  if (plan.input.parts.length) return partElements(plan, given);
  const values = numbers(given, plan.input);
  checkRange(values, plan);
  return { rows: values.length / size(plan.input.shape), elements: encode(values, encodingOf(plan)) };
}

/** The values of inputs, one after another. Throws InvalidInput unless they are whole inputs of that shape. */
function numbers(given: unknown, takes: { shape: number[]; low: number; high: number }): Float64Array {
  const values = given instanceof Float32Array ? forgiven(given, takes) : flat(given);
  if (!values.length || values.length % size(takes.shape)) {
    throw new InvalidInput(
      `the model takes inputs of shape ${takes.shape.join(" x ") || "1"}, but got ${values.length} numbers: pass whole inputs`,
    );
  }
  return values;
}

/** Moves to an end of the range what only the rounding to single precision took out of it. */
function forgiven(given: Float32Array, { low, high }: { low: number; high: number }): Float64Array {
  const [least, most] = [Math.min(low, Math.fround(low)), Math.max(high, Math.fround(high))];
  return Float64Array.from(given, (x) => (x >= least && x <= most ? Math.min(Math.max(x, low), high) : x));
}

/** Numbers of a typed array or of lists in lists, whose inner ones are equally long. Throws InvalidInput. */
function flat(given: unknown): Float64Array {
  if (ArrayBuffer.isView(given) && !(given instanceof DataView) && !(given instanceof BigInt64Array)) {
    return Float64Array.from(given as unknown as ArrayLike<number>);
  }
  if (typeof given === "number") return Float64Array.of(given);
  if (!Array.isArray(given)) throw new InvalidInput("pass numbers: a typed array, or a list of numbers or of lists");
  const parts = given.map((one) => flat(one));
  if (new Set(parts.map((part) => part.length)).size > 1) {
    throw new InvalidInput("the inputs do not all have the same shape: pass them one by one, or give them the same shape");
  }
  const whole = new Float64Array(parts.length * (parts[0]?.length ?? 0));
  parts.forEach((part, at) => whole.set(part, at * part.length));
  return whole;
}

function checkRange(values: Float64Array, plan: Plan): void {
  const how = encodingOf(plan);
  const at = values.findIndex((value) => !inRange(value, how));
  if (at < 0) return;
  const each = size(plan.input.shape);
  const wrong = new Set<number>();
  values.forEach((value, place) => !inRange(value, how) && wrong.add(Math.floor(place / each)));
  const value = values[at]!;
  const beyond = Number.isFinite(value) ? value - (value < how.low ? how.low : how.high) : null;
  const side = beyond === null ? "is NaN or infinity" : `is ${beyond < 0 ? "below" : "above"} the model's range`;
  const [row, column] = [Math.floor(at / each), at % each];
  const text = `row ${row}, place ${column} ${side} ${how.low} to ${how.high}: bring the input into it`;
  throw new InvalidInput(text, { rows: [...wrong], column, value, beyond });
}

/** Inputs of a model that takes several, by name. Each has a range of its own, which becomes -1 to 1. */
function partElements(plan: Plan, given: unknown): Encoded {
  const { parts } = plan.input;
  const named = given as Record<string, unknown>;
  const names = parts.map((part) => part.name);
  const isRecord = typeof given === "object" && given !== null && !Array.isArray(given) && !ArrayBuffer.isView(given);
  if (!isRecord || Object.keys(named).sort().join("\0") !== [...names].sort().join("\0")) {
    throw new InvalidInput(`the model takes several inputs: pass an object of ${names.join(", ")}`);
  }
  const columns = parts.map((part) => numbers(named[part.name], part));
  const counts = columns.map((column, at) => column.length / size(parts[at]!.shape));
  if (new Set(counts).size > 1) throw new InvalidInput("pass as many of each input");
  const [rows, each] = [counts[0]!, size(plan.input.shape)];
  const units = new Float64Array(rows * each);
  let start = 0;
  parts.forEach((part, at) => {
    writeUnits(part, columns[at]!, plan.input, (row, place, unit) => (units[row * each + start + place] = unit));
    start += size(part.shape);
  });
  return { rows, elements: encode(units, encodingOf(plan)) };
}

function writeUnits(
  part: InputPart,
  values: Float64Array,
  takes: Input,
  write: (row: number, place: number, unit: number) => void,
): void {
  const [middle, half] = [(part.low + part.high) / 2, (part.high - part.low) / 2];
  const most = 1 + 0.5 * 2 ** -takes.frac_bits;
  const wide = size(part.shape);
  values.forEach((value, at) => {
    const unit = (value - middle) / half;
    const row = Math.floor(at / wide);
    if (!(Math.abs(unit) <= most)) {
      const text = `the input ${part.name} has values outside the declared range ${part.low} to ${part.high}`;
      throw new InvalidInput(`${text}: bring the input into the model's range`, { rows: [row], column: part.name, value });
    }
    write(row, at % wide, unit);
  });
}
