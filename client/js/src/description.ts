/** What a client may want to know of a model, in words. */

import { type Entry, type Part } from "./entry.js";

const SHOWN = 12;

/** A line for each thing. */
export function describe(entry: Entry): string {
  const { canaries } = entry;
  const facts: [string, string][] = [
    ["name", entry.name],
    ["version", String(entry.version)],
    ["description", entry.description || "-"],
    ["takes", takes(entry)],
    ["gives", gives(entry)],
    ["classes", entry.classes.length ? listed(entry.classes) : "-"],
    ["at a time", `${entry.max_rows} inputs in a request at most`],
    ["verified", entry.plan.verified ? "yes: a party that cheats is caught" : "no: parties are trusted to compute"],
    ["who may ask", entry.access === "open" ? "everybody" : "holders of the owner's tokens"],
    ["canaries", canaries.length ? `${canaries.length} inputs whose answers are known` : "none"],
    ["parties", entry.parties.map((party) => `${party.name} at ${party.url}`).join(", ")],
  ];
  return facts.map(([name, text]) => `${name.padEnd(12)} ${printable(text)}`).join("\n");
}

function takes(entry: Entry): string {
  const { input } = entry.plan;
  const how = entry.preprocessing;
  if (input.parts.length) return `the inputs ${listed(input.parts.map((part) => `${sized(part)} from ${part.low} to ${part.high}`))}`;
  if (how?.kind === "table") return `rows of the columns ${listed(how.columns.map((column) => column.name))}`;
  if (how && "vocabulary" in how) return `ids of tokens below ${how.vocabulary}, ${how.length}${how.pad_id === null ? "" : " at most"}`;
  const numbers = `inputs of shape ${input.shape.join(" x ")}, from ${input.low} to ${input.high}`;
  if (how === null) return numbers;
  const seen = how.polarity ? ` ${how.polarity.replaceAll("-", " ")}` : "";
  return `${how.channels === 3 ? "RGB" : "grey"}${seen} pixels, ${how.size.join(" x ")}; or ${numbers}`;
}

function gives(entry: Entry): string {
  const { output } = entry.plan;
  if (output.kind === "labels") return `of each input the ${output.top} likeliest labels, in order, and nothing else`;
  if (output.kind === "decision") return "of each input which of two classes it is, and nothing else";
  if (output.kind === "count") return "one count for all inputs together, and nothing about each";
  if (output.task === "classes") return `${output.size} outputs for each input, one for each class`;
  if (output.task === "binary") return "one output for each input, which tells two classes apart";
  return output.parts.length ? `the outputs ${listed(output.parts.map(sized))}` : `${output.size} values for each input`;
}

function sized(part: Part): string {
  return `${part.name} (${part.shape.join(" x ") || "a number"})`;
}

function listed(names: readonly string[]): string {
  const more = names.length > SHOWN ? `, ... (${names.length} in all)` : "";
  return `${names.slice(0, SHOWN).join(", ")}${more}`;
}

/** Writes out what a terminal or a page would obey, such as line ends and direction marks. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (one) => `\\u{${one.codePointAt(0)!.toString(16)}}`);
}
