/** What a model says of each input: labels, outputs, probabilities. */

import { type Final, type Output, size } from "./entry.js";
import { LabelsOnly, NoLabels, NoProbabilities } from "./errors.js";

/** The rows of a flat array. */
function cut(values: Float64Array, each: number): Float64Array[] {
  return Array.from({ length: values.length / each }, (_, row) => values.slice(row * each, (row + 1) * each));
}

/** The places of the values from the largest down; of equal ones the first comes first. */
function order(values: Float64Array): number[] {
  return Array.from(values.keys()).sort((one, other) => values[other]! - values[one]! || one - other);
}

/** The likeliest class of each row. Throws NoLabels. */
export function labelsOf(output: Output, given: Float64Array): number[] {
  if (output.kind === "decision") return Array.from(given);
  if (output.kind === "labels") return topOf(output, given).map((row) => row[0]!);
  if (output.task === "binary") return Array.from(given, (one) => (one > output.threshold ? 1 : 0));
  if (output.task === "values") throw new NoLabels("this model gives values and tells no classes apart: read `outputs`");
  return cut(given, output.size).map((row) => row.indexOf(Math.max(...row)));
}

/** The classes of each row from the likeliest down. Throws NoLabels. */
function topOf(output: Output, given: Float64Array): number[][] {
  const rows = cut(given, output.size);
  if (output.kind === "labels") {
    return rows.map((ranks) => order(ranks.map((rank) => (rank === 0 ? -256 : -rank))).slice(0, output.top));
  }
  if (output.task === "classes") return rows.map(order);
  return labelsOf(output, given).map((label) => [label, 1 - label]);
}

/** The answers to the inputs of one call, in their order. */
export class Prediction {
  constructor(
    /** What the model's outputs are for, as the owner says. */
    readonly output: Output,
    /** What the parties gave out, joined: the outputs without the model's last function, ranks, or decisions. */
    readonly given: Float64Array,
    /** The names of the model's classes, or none. */
    readonly classes: readonly string[],
    /** How often the two parties exchanged messages in one run, as they counted it. */
    readonly rounds: number,
    /** How many bytes of payload each party sent the other, as they counted it. */
    readonly onlineBytes: number,
    /** How long the call took. */
    readonly seconds: number,
    /** How many pictures were inverted, since they were dark on light and the model takes light on dark, or the reverse. */
    readonly inverted = 0,
  ) {}

  /** The number of inputs. */
  get length(): number {
    return this.given.length / this.output.size;
  }

  /** The likeliest class of each input. Throws NoLabels if the model gives values. */
  get labels(): number[] {
    return labelsOf(this.output, this.given);
  }

  /** The likeliest class of each input by its name, or its number if the model does not name its classes. */
  get names(): string[] {
    return this.labels.map((label) => this.classes[label] ?? String(label));
  }

  /** The classes of each input from the likeliest down: all, or as many as the owner gives out. Throws NoLabels. */
  get top(): number[][] {
    return topOf(this.output, this.given);
  }

  /** The outputs of each input without the model's last function. Throws LabelsOnly. */
  get scores(): Float64Array[] {
    if (this.output.kind !== "logits") {
      throw new LabelsOnly("this model gives only its likeliest classes, not its outputs: read `labels` or `top`");
    }
    return cut(this.given, this.output.size);
  }

  /** The outputs of each input, flat; of a model of several outputs, by their names. Throws LabelsOnly. */
  get outputs(): Float64Array[] | Record<string, Float64Array[]> {
    const { parts, final } = this.output;
    if (!parts.length) return this.scores.map((row) => finish(final, row));
    let start = 0;
    const named = parts.map((part) => {
      const [from, to] = [start, (start += size(part.shape))];
      const rows = this.scores.map((row) => finish(part.final, row.slice(from, to).map((one) => part.scale * one)));
      return [part.name, rows] as const;
    });
    return Object.fromEntries(named);
  }

  /** The probability of each class, for each input. Throws LabelsOnly or NoProbabilities. */
  get probabilities(): Float64Array[] {
    const { task, final, unit } = this.output;
    const { scores } = this;
    if (task === "values" || final === "exp" || (final === "none" && unit === "scores")) {
      throw new NoProbabilities("this model's outputs are no probabilities: read `outputs` or `labels`");
    }
    if (task === "binary") {
      return scores.map(([score]) => {
        const second = unit === "probabilities" ? Math.min(Math.max(score!, 0), 1) : sigmoid(score!);
        return Float64Array.of(1 - second, second);
      });
    }
    const areLogits = unit === "logits" && (final === "none" || final === "log_softmax");
    return scores.map((row) => finish(areLogits ? "softmax" : final, row));
  }
}

function sigmoid(x: number): number {
  return 0.5 * (1 + Math.tanh(x / 2)); // of no exponential, which would overflow
}

/** Applies a model's last function to the outputs of one input. */
function finish(final: Final, row: Float64Array): Float64Array {
  if (final === "none") return row;
  if (final === "exp") return row.map(Math.exp);
  if (final === "sigmoid") return row.map(sigmoid);
  if (final === "ovr") {
    const each = row.map(sigmoid);
    const total = each.reduce((sum, one) => sum + one, 0);
    return each.map((one) => (total > 0 ? one / total : 1 / row.length));
  }
  const most = Math.max(...row);
  const logarithm = Math.log(row.reduce((sum, one) => sum + Math.exp(one - most), 0));
  return row.map((one) => (final === "softmax" ? Math.exp(one - most - logarithm) : one - most - logarithm));
}
