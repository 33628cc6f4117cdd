/** A catalogue entry, and the parts of its plan that a client needs. Members are named as the owner signed them. */

import { fromBase64url } from "./bytes.js";
import { type Encoding, fits } from "./elements.js";

export interface Part {
  name: string;
  shape: number[];
}

export interface InputPart extends Part {
  low: number;
  high: number;
}

export type Final = "none" | "softmax" | "log_softmax" | "sigmoid" | "ovr" | "exp";

export interface OutputPart extends Part {
  scale: number;
  final: Final;
}

export interface Input {
  shape: number[];
  frac_bits: number;
  low: number;
  high: number;
  classes: number | null;
  parts: InputPart[];
}

export interface Output {
  wire: string;
  shape: number[];
  kind: "logits" | "labels" | "decision" | "count";
  task: "classes" | "binary" | "values";
  scale: number;
  final: Final;
  unit: "logits" | "scores" | "probabilities";
  threshold: number;
  top: number;
  parts: OutputPart[];
  /** The product of the shape. */
  size: number;
}

export interface Plan {
  ring_bits: 32 | 64;
  input: Input;
  output: Output;
  /** null or missing where the parties do not check each other. */
  verified?: object | null;
}

export interface Picture {
  kind: "picture";
  channels: 1 | 3;
  /** Height and width. */
  size: [number, number];
  mean: number[];
  std: number[];
  /** The shorter side, before the middle is cut out; without it, the whole picture becomes `size`. */
  resize?: number | null;
  interpolation?: "bilinear" | "bicubic";
  polarity?: "light-on-dark" | "dark-on-light" | null;
}

export interface Column {
  name: string;
  kind: "number" | "bins" | "category";
  low: number | null;
  high: number | null;
  outside: "refuse" | "clip";
  edges: number[];
  categories: (string | number | bigint)[];
  unknown: "refuse" | "zeros";
  missing: "refuse" | "flag" | "fill";
  fill: string | number | bigint | null;
  unit: string;
  description: string;
}

export interface Table {
  kind: "table";
  columns: Column[];
  precision: "float32" | "float64";
}

/** A file beside the entry: its SHA-256 in hex, and its bytes. */
export interface Attachment {
  digest: string;
  size: number;
}

interface TokenIds {
  length: number;
  vocabulary: number;
  pad_id: number | null;
}

/** The client looks ids up in a public table. */
export interface Tokens extends TokenIds {
  kind: "tokens";
  width: number;
  step: number;
  table: Attachment;
}

/** The parties look ids up in a secret table. The client shares an id's digits; `digits` says how many values each has. */
export interface SecretTokens extends TokenIds {
  kind: "secret_tokens";
  digits: number[];
}

export interface Canary {
  seed: string;
  label: number | null;
  outputs: number[];
  tolerance: number;
}

export interface Endpoint {
  name: string;
  url: string;
  sealing_key: string;
}

/** One version of one model, as its owner signed it. */
export interface Entry {
  name: string;
  version: number;
  upload_id: string;
  plan: Plan;
  /** alice, to whom requests go, and bob. */
  parties: [Endpoint, Endpoint];
  max_rows: number;
  preprocessing: Picture | Table | Tokens | SecretTokens | null;
  classes: string[];
  description: string;
  access: "token" | "open";
  canaries: Canary[];
  /** Of a verified model: what the crypto provider signs rows with. */
  record_key: string | null;
  revision: number;
  active: boolean;
  issued: number;
  expires: number;
}

export const FORMATS = { entry: 3, plan: 4 };
const MEMBERS =
  "access active canaries classes description expires format issued max_rows name parties plan preprocessing record_key revision upload_id version";
const MOST_ELEMENTS = 2 ** 26;

/** How the plan encodes its input. */
export function encodingOf(plan: Plan): Encoding {
  const { frac_bits: fracBits, low, high } = plan.input;
  return { fracBits, ringBits: plan.ring_bits, low, high };
}

export function size(shape: number[]): number {
  return shape.reduce((product, one) => product * one, 1);
}

/** Completes and returns an entry if this client can use it. Throws TypeError where a member is not as it must be. */
export function checked(found: unknown): Entry {
  const entry = object(found);
  check(Object.keys(entry).sort().join(" ") === MEMBERS, "entry");
  check(typeof entry.name === "string" && /^[0-9a-f]{32}$/.test(String(entry.upload_id)), "name");
  for (const name of ["version", "max_rows", "revision"]) check(whole(entry[name], 1), name);
  check(whole(entry.issued, 0) && whole(entry.expires, 1) && typeof entry.active === "boolean", "times");
  check(list(entry.classes).every((name) => typeof name === "string"), "classes");
  const parties = list(entry.parties).map(object);
  check(parties.length === 2 && parties.every((one) => isText(one.url) && isText(one.sealing_key)), "parties");
  const plan = checkPlan(object(entry.plan));
  check(entry.record_key === null ? !plan.verified : !!plan.verified && isKey(entry.record_key), "record_key");
  checkPreprocessing(entry.preprocessing, plan);
  for (const canary of list(entry.canaries).map(object)) {
    check(/^[0-9a-f]{64}$/.test(String(canary.seed)), "canaries");
    check(canary.label === null || whole(canary.label, 0), "canaries");
    check(list(canary.outputs).every(isNumber) && isNumber(canary.tolerance), "canaries");
  }
  return entry as unknown as Entry;
}

function checkPlan(plan: Record<string, unknown>): Plan {
  check(plan.ring_bits === 32 || plan.ring_bits === 64, "ring_bits");
  const input = object(plan.input);
  check(isShape(input.shape) && whole(input.frac_bits, 0) && (input.frac_bits as number) <= 60, "input");
  check(isNumber(input.low) && isNumber(input.high) && (input.low as number) < (input.high as number), "input");
  check(input.classes === null || whole(input.classes, 2), "input");
  const { frac_bits: fracBits, low, high } = input as unknown as Input;
  check(fits({ fracBits, ringBits: plan.ring_bits, low, high }), "input");
  const parts = list(input.parts).map(object);
  check(parts.every((one) => isText(one.name) && isNumber(one.low) && isNumber(one.high)), "parts");
  check(!parts.length || fills(parts, input.shape as number[]), "parts");
  const output = object(plan.output);
  check(isShape(output.shape), "output");
  output.size = size(output.shape as number[]);
  oneOf(output.kind, "logits", "labels", "decision", "count");
  oneOf(output.task, "classes", "binary", "values");
  oneOf(output.unit, "logits", "scores", "probabilities");
  const pieces = list(output.parts).map(object);
  for (const one of [output, ...pieces]) {
    oneOf(one.final, "none", "softmax", "log_softmax", "sigmoid", "ovr", "exp");
    check(isNumber(one.scale), "scale");
  }
  check(isNumber(output.threshold) && whole(output.top, 1), "output");
  check(!pieces.length || fills(pieces, output.shape as number[]), "parts");
  const decides = list(plan.layers).map(object).some((one) => one.name === output.wire && one.op === "decide");
  check(output.kind !== "decision" || decides, "decision");
  if (plan.verified) check(typeof plan.verified === "object" && plan.ring_bits === 32, "verified");
  return plan as unknown as Plan;
}

function checkPreprocessing(found: unknown, plan: Plan): void {
  if (found === null) return;
  const how = object(found);
  const wanted = size(plan.input.shape);
  if (how.kind === "picture") {
    const { channels, size: sides, mean, std } = how as unknown as Picture;
    check(isShape(sides) && sides.length === 2 && (channels === 1 || channels === 3), "picture");
    check([mean, std].every((one) => list(one).length === channels && one.every(isNumber)), "picture");
    check(channels * size(sides) === wanted, "picture");
    check((how.resize ?? null) === null || whole(how.resize, Math.max(...sides)), "picture");
    oneOf(how.interpolation ?? "bilinear", "bilinear", "bicubic");
  } else if (how.kind === "table") {
    for (const one of list(how.columns).map(object)) {
      oneOf(one.kind, "number", "bins", "category");
      check(isText(one.name) && list(one.edges).every(isNumber) && Array.isArray(one.categories), "column");
    }
    check(elementsOf(how as unknown as Table) === wanted, "table");
  } else {
    oneOf(how.kind, "tokens", "secret_tokens");
    const { length, vocabulary, pad_id: pad, width, step, table, digits } = how as unknown as Tokens & Omit<SecretTokens, "kind">;
    const secret = how.kind !== "tokens";
    for (const one of [length, vocabulary]) check(whole(one, 1), "tokens");
    check(length * (secret ? list(digits).length : width) === wanted, "tokens");
    if (secret) check(isShape(digits) && size(digits) >= vocabulary, "tokens");
    else check(isNumber(step) && /^[0-9a-f]{64}$/.test(table.digest) && table.size === 2 * vocabulary * width, "tokens");
    check(pad === null || (whole(pad, 0) && pad < vocabulary), "tokens");
  }
}

/** The number of elements of a column. */
export function width(column: Column): number {
  const own = { number: 1, bins: column.edges.length, category: column.categories.length }[column.kind];
  return own + (column.missing === "flag" ? 1 : 0);
}

function elementsOf(table: Table): number {
  return table.columns.reduce((sum, column) => sum + width(column), 0);
}

function fills(parts: Record<string, unknown>[], shape: number[]): boolean {
  const sizes = parts.map((one) => (list(one.shape).length ? (isShape(one.shape) ? size(one.shape) : NaN) : 1));
  return shape.length === 1 && sizes.reduce((sum, one) => sum + one, 0) === shape[0];
}

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new TypeError(`the entry's ${what} cannot be read`);
}

function object(found: unknown): Record<string, unknown> {
  check(typeof found === "object" && found !== null && !Array.isArray(found), "object");
  return found as Record<string, unknown>;
}

function list(found: unknown): unknown[] {
  check(Array.isArray(found), "list");
  return found;
}

function oneOf(found: unknown, ...known: string[]): void {
  check(known.includes(found as string), String(known[0]));
}

function whole(found: unknown, least: number): found is number {
  return Number.isSafeInteger(found) && (found as number) >= least;
}

function isNumber(found: unknown): found is number {
  return typeof found === "number" && Number.isFinite(found);
}

function isText(found: unknown): found is string {
  return typeof found === "string";
}

function isKey(found: unknown): boolean {
  return isText(found) && fromBase64url(found).length === 32;
}

function isShape(found: unknown): found is number[] {
  return Array.isArray(found) && found.length > 0 && found.every((one) => whole(one, 1)) && size(found) <= MOST_ELEMENTS;
}
