// How the page asks when the owner's catalogue serves it: the split, the seals and the answer are made in this page.

import { Client, LabelsOnly, MoietyError, NoProbabilities } from "./client.js";

const GLIMPSE = 48; // bytes of a message that the page shows
const LISTED = 10;
const WHITE = 255;

export const words = {
  lead: "This page splits your input into two halves of pure noise, in your browser. Alice and Bob compute on one half each, and only you get both halves of the answer.",
  foot: "The model’s owner serves this page: whoever serves it could change its code, and you trust them not to. A program of your own, or the sidecar, asks without that trust.",
  here: "in this page",
  timed: "This page measured these times",
  reference: "",
  samples: "",
  closed: {
    title: "The published models want an access file",
    hint: "Ask the model’s owner for one, and open it here.",
  },
  down: {
    title: "The service does not answer",
    hint: "Try again in a moment. If that fails, tell the model’s owner.",
  },
};

const OFFLINE = {
  title: "There is no network",
  hint: "Alice cannot be reached, and nothing was sent. What you drew or filled in stays on this page: try again when you are connected.",
};

let client = null;
let admitted = false;
let known = new Map(); // entries by name, each verified

/** Takes an access file's content: from then on, its token is sent along. It is kept in memory alone. */
export async function admit(text) {
  const { catalogue_url: url, token } = membersOf(text);
  const origin = URL.canParse(url) ? new URL(url).origin : "";
  if (origin !== location.origin) {
    throw origin
      ? { title: "This access file is for another catalogue", hint: `Open it on the page of ${origin}.` }
      : { title: "This is not an access file", hint: "Ask the model’s owner for one." };
  }
  try {
    client = await Client.fromAccess(text);
    admitted = Boolean(token);
  } catch (error) {
    throw problemOf(error, "This access file cannot be used");
  }
}

function membersOf(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** The published models, as the page lists them. Throws a problem: { title, detail, hint }. */
export async function models() {
  try {
    if (!navigator.onLine) throw OFFLINE;
    client ??= await withoutToken();
    if (client === null) return [];
    const entries = await client.models();
    known = new Map(entries.map((entry) => [entry.name, entry]));
    return await Promise.all(entries.map(listed));
  } catch (error) {
    throw problemOf(error, words.down.title);
  }
}

/** A client of the open models. The page believes the owner's key that the catalogue names: its code comes from there too. */
async function withoutToken() {
  const [first] = await fetchJson("/v1/models");
  if (!first) return null;
  const { owner_key } = await fetchJson(`/v1/models/${encodeURIComponent(first.name)}`);
  return Client.fromAccess({ format: 2, catalogue_url: location.origin, owner_key, ca: "", token: "", key: "" });
}

async function fetchJson(path) {
  const response = await fetch(path).catch(() => null);
  if (!response?.ok) throw words.down;
  return response.json();
}

const schedules = new Map();

/** What the rounds of a model's plan send. A plan is its upload's for good. */
async function scheduled({ name, upload_id }) {
  if (!schedules.has(upload_id)) schedules.set(upload_id, await fetchJson(`/page/rounds/${encodeURIComponent(name)}`));
  return schedules.get(upload_id);
}

async function listed(entry) {
  const { preprocessing: how, plan } = entry;
  return {
    name: entry.name,
    version: entry.version,
    description: entry.description,
    gives: plan.output.kind,
    picture: how?.kind === "picture" ? sizeOf(entry) : null,
    columns: how?.kind === "table" ? how.columns.map(field) : null,
    rounds: plan.verified?.rounds ?? (await scheduled(entry)).length,
    verified: Boolean(plan.verified),
    closed: entry.access !== "open" && !admitted,
  };
}

const field = ({ name, kind, low, high, outside, categories, missing, unit, description }) => ({
  ...{ name, kind, low, high, categories, unit, description },
  refuses: outside === "refuse",
  may_be_missing: missing !== "refuse",
});

function sizeOf({ preprocessing: how, plan }) {
  if (how.kind === "table") return { height: 1, width: plan.input.shape.reduce((a, b) => a * b, 1), channels: 1 };
  return { height: how.size[0], width: how.size[1], channels: how.channels };
}

/** Asks for one row of a table, or for one picture file; `invert` says whether to swap its dark and light. */
export async function ask(name, { row, picture, invert }, signal) {
  const entry = known.get(name);
  try {
    if (!navigator.onLine) throw OFFLINE;
    const formula = await scheduled(entry);
    let seen = null;
    const answer = await client.predict(name, row ?? picture, { signal, invert, watch: (request) => (seen = request) });
    return shown(entry, answer, seen, formula, answer.inverted > 0);
  } catch (error) {
    if (signal.aborted) throw error;
    throw problemOf(error, "The prediction did not come");
  }
}

/** What the page shows of an answer, as a sidecar describes it. */
function shown(entry, answer, seen, formula, inverted) {
  const size = sizeOf(entry);
  return {
    size,
    formula,
    inverted,
    pixels: base64(byPixel(drawn(entry, seen.elements), size)),
    label: told(answer),
    top: likeliest(answer),
    parties: entry.parties.map(({ name, url }, at) => ({
      name,
      url,
      share: base64(byPixel(highest(entry.plan, seen.shares[at]), size)),
      envelope_bytes: seen.messages[at].length,
      envelope: hex(seen.messages[at].slice(0, GLIMPSE)),
      result_bytes: seen.results[at].length,
      result: hex(seen.results[at].slice(0, GLIMPSE)),
    })),
    measured: {
      seal_ms: seen.seal,
      exchange_ms: seen.exchange,
      rounds_ms: seen.rounds,
      open_ms: seen.open,
      upload_bytes: seen.uploadBytes,
      download_bytes: seen.downloadBytes,
      rounds: answer.rounds,
      online_bytes: answer.onlineBytes,
    },
  };
}

/** The input as the model takes it, each value as a byte of grey or of its colour. */
function drawn({ preprocessing: how, plan }, elements) {
  const values = plan.ring_bits === 32 ? new Int32Array(elements.slice().buffer) : new BigInt64Array(elements.slice().buffer);
  const area = values.length / (how.channels ?? 1);
  return Uint8ClampedArray.from(values, (element, at) => {
    const value = Number(element) / 2 ** plan.input.frac_bits;
    if (how.kind === "table") return ((value + 1) / 2) * WHITE;
    const channel = Math.floor(at / area);
    return (value * how.std[channel] + how.mean[channel]) * WHITE;
  });
}

/** The highest byte of each ring element. */
function highest({ ring_bits: bits }, share) {
  const each = bits / 8;
  return Uint8Array.from({ length: share.length / each }, (_, at) => share[each * at + each - 1]);
}

/** Bytes ordered by channel, row and column, ordered by row, column and channel. */
function byPixel(bytes, { height, width, channels }) {
  const area = height * width;
  return Uint8Array.from({ length: bytes.length }, (_, at) => bytes[(at % channels) * area + Math.floor(at / channels)]);
}

function told(answer) {
  if (answer.output.task !== "values") return answer.names[0];
  const values = Array.from(answer.scores[0]);
  return values.slice(0, LISTED).map((value) => String(Number(value.toPrecision(4)))).join(", ") + (values.length > LISTED ? ", …" : "");
}

function likeliest(answer) {
  if (answer.output.task === "values") return [];
  let sure = null;
  try {
    [sure] = answer.probabilities;
  } catch (error) {
    if (!(error instanceof NoProbabilities || error instanceof LabelsOnly)) throw error;
  }
  return answer.top[0].slice(0, LISTED).map((index) => ({
    name: answer.classes[index] ?? String(index),
    confidence: sure === null ? null : sure[index],
  }));
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

/** An error as the page says it. Errors of the client contain no value of an input, and say what to do. */
function problemOf(error, title) {
  if (error?.title) return error;
  if (error instanceof MoietyError) return { title, detail: error.message, hint: "" };
  console.error(error);
  return { title, hint: "The browser’s console says more." };
}
