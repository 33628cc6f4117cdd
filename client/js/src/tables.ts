/** Rows of a table by column name, as ring elements, by what the model's owner declares of each column. */

import { Elements, type Encoded, rint } from "./elements.js";
import { type Column, type Plan, type Table, width } from "./entry.js";
import { InvalidInput } from "./errors.js";

/** What becomes of columns that the model does not take: they are refused, or left out. */
export type Others = "strict" | "ignore";
type Row = Record<string, unknown>;

const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/;
const MISSING = Symbol("missing");

/** Encodes one row, a list of rows, or an object of columns. Throws InvalidInput. */
export function tableElements(table: Table, plan: Plan, given: unknown, others: Others): Encoded {
  const rows = rowsOf(given);
  for (const row of rows) checkNames(table, row, others);
  const each = table.columns.reduce((sum, column) => sum + width(column), 0);
  const elements = Elements.zeros(plan.ring_bits, rows.length * each);
  const one = 2 ** plan.input.frac_bits;
  let start = 0;
  for (const column of table.columns) {
    const places = column.kind === "category" ? spellings(column) : undefined;
    rows.forEach((row, at) => {
      const block = places ? category(column, places, row[column.name], at) : numeric(column, table, row[column.name], at);
      block.forEach((value, place) => value && elements.set(at * each + start + place, rint(value * one)));
    });
    start += width(column);
  }
  return { rows: rows.length, elements };
}

function rowsOf(given: unknown): Row[] {
  const rows = Array.isArray(given) ? given : [given];
  if (!rows.length || !rows.every((row) => typeof row === "object" && row !== null && !Array.isArray(row))) {
    throw new InvalidInput("pass rows of the table: objects whose members are the columns");
  }
  if (Array.isArray(given)) return rows as Row[];
  const columns = Object.entries(given as Row);
  const lengths = new Set(columns.map(([, values]) => (Array.isArray(values) ? values.length : -1)));
  if (lengths.size !== 1 || lengths.has(-1)) return rows as Row[];
  const [count] = lengths;
  return Array.from({ length: count! }, (_, at) => {
    return Object.fromEntries(columns.map(([name, values]) => [name, (values as unknown[])[at]]));
  });
}

function checkNames(table: Table, row: Row, others: Others): void {
  const names = new Set(table.columns.map((column) => column.name));
  const missing = [...names].filter((name) => !Object.hasOwn(row, name));
  if (missing.length) throw new InvalidInput(`missing columns: ${missing.join(", ")}`);
  const extra = Object.keys(row).filter((name) => !names.has(name));
  if (extra.length && others === "strict") {
    throw new InvalidInput(`the model takes no columns ${extra.join(", ")}: leave them out, or pass {columns: "ignore"}`);
  }
}

function refuse(column: Column, row: number, what: string, value: unknown, beyond: number | null = null): never {
  throw new InvalidInput(`row ${row}, column ${column.name} ${what}`, { rows: [row], column: column.name, value, beyond });
}

/** What stands for a missing value, or MISSING where a flag says so. */
function standIn(column: Column, row: number, value: unknown): typeof MISSING | Column["fill"] {
  if (column.missing === "refuse") refuse(column, row, "is missing, and the model needs it", value);
  return column.missing === "fill" ? column.fill : MISSING;
}

/** The elements of a block that has a flag for missing values: the flag alone. */
function flagged(column: Column): number[] {
  return Array.from({ length: width(column) }, (_, at) => (at === width(column) - 1 ? 1 : 0));
}

/** The elements of a number or of bins. */
function numeric(column: Column, table: Table, value: unknown, row: number): number[] {
  let x = read(column, value, row);
  if (Number.isNaN(x)) {
    const other = standIn(column, row, value);
    if (other === MISSING) return flagged(column);
    x = Number(other);
  }
  x = within(column, x, value, row);
  if (column.kind === "bins") {
    const compared = table.precision === "float32" ? Math.fround(x) : x;
    return column.edges.map((edge) => (compared > edge ? 1 : 0));
  }
  const [low, high] = [column.low!, column.high!];
  const [middle, half] = [low / 2 + high / 2, high / 2 - low / 2];
  return [Math.min(Math.max((x - middle) / half, -1), 1)];
}

/** The number that a value stands for, or NaN if it is missing. */
function read(column: Column, value: unknown, row: number): number {
  if (value === null || value === undefined) return NaN;
  if (typeof value === "number" || typeof value === "boolean" || typeof value === "bigint") return Number(value);
  const text = typeof value === "string" ? value.trim() : "none";
  if (text === "" || text.toLowerCase() === "nan") return NaN;
  return NUMBER.test(text) ? Number(text) : refuse(column, row, "is no number", value);
}

function within(column: Column, x: number, value: unknown, row: number): number {
  if (!Number.isFinite(x)) refuse(column, row, "is infinite", value);
  const [low, high] = [column.low ?? -Infinity, column.high ?? Infinity];
  if (column.outside === "clip") return Math.min(Math.max(x, low), high);
  if (x >= low && x <= high) return x;
  const beyond = x - (x < low ? low : high);
  const range = `the range ${low} to ${high}${column.unit ? ` ${column.unit}` : ""}`;
  return refuse(column, row, `is ${beyond < 0 ? "below" : "above"} ${range}`, value, beyond);
}

/** The elements of a category. */
function category(column: Column, places: Map<string, number>, value: unknown, row: number): number[] {
  let at = places.get(key(value));
  const missing = at === undefined && (value === null || value === undefined || value === "" || Number.isNaN(value));
  if (missing) {
    const other = standIn(column, row, value);
    if (other === MISSING) return flagged(column);
    at = places.get(key(other));
  } else if (at === undefined && column.unknown === "refuse") {
    refuse(column, row, "is none of the model's categories", value);
  }
  return Array.from({ length: width(column) }, (_, place) => (place === at ? 1 : 0));
}

/** The place of each category under all that stands for it: "3", 3 and "3.0" are one, and true is 1 or "True". */
function spellings(column: Column): Map<string, number> {
  const places = new Map<string, number>();
  const add = (what: unknown, at: number) => places.has(key(what)) || places.set(key(what), at);
  column.categories.forEach((one, at) => places.set(key(one), at));
  column.categories.forEach((one, at) => {
    const text = String(one);
    if (text === "True" || text === "False") add(text === "True", at);
    else if (/^(0|-?[1-9]\d*)$/.test(text)) [BigInt(text), text, `${text}.0`].forEach((same) => add(same, at));
  });
  return places;
}

/** Equal for values that are one category. */
function key(value: unknown): string {
  if (typeof value === "string") return `text ${value}`;
  if (typeof value === "boolean") return `number ${Number(value)}`;
  if (typeof value === "number" && Number.isInteger(value)) return `number ${BigInt(value)}`;
  return typeof value === "bigint" || typeof value === "number" ? `number ${value}` : "neither";
}
