// What an answer looks like: the classes, the shares, the steps of the call. Draws what it is given and nothing else.

import { words } from "./own/asking.js";

const $ = (id) => document.getElementById(id);
const MANY_ROUNDS = 14;

export function element(tag, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : Math.round(ms)} ms`;
export const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} KB` : `${(n / 1e6).toFixed(1)} MB`);
const percent = (p) => (p >= 0.9995 && p < 1 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`);

export function showAnswer(shown, seconds) {
  const [best] = shown.top;
  const { measured } = shown;
  $("answer").classList.remove("waiting");
  $("label").textContent = shown.label;
  $("label").classList.toggle("long", shown.label.length > 3);
  const sure = !best
    ? "a value: the model tells no classes apart"
    : best.confidence === null
      ? "without a score: the model’s owner gives out none"
      : `${percent(best.confidence)} confident`;
  $("sure").textContent = sure;
  $("status").textContent = `The answer is ${shown.label}, ${sure}.`;
  const total = measured.seal_ms + measured.exchange_ms + measured.open_ms;
  $("took").textContent =
    `${milliseconds(total)} from sealing your input to opening the answer; ` +
    `${milliseconds(seconds * 1e3)} with this page’s own work.`;
  const digits = shown.top.every((one) => /^\d$/.test(one.name));
  const listed = digits ? [...shown.top].sort((a, b) => a.name - b.name) : shown.top.slice(0, 5);
  $("bars").classList.toggle("named", !digits);
  $("bars").replaceChildren(...listed.map((one) => bar(one, one === best, shown.top.indexOf(one))));
}

function bar(one, first, rank) {
  const row = element("li", first ? { className: "first" } : {}, element("span", { text: one.name }));
  if (one.confidence === null) {
    row.append(element("span", { className: "ranks", text: rank ? `number ${rank + 1}` : "the likeliest" }));
    return row;
  }
  const fill = element("span", { className: "fill" });
  fill.style.width = `${100 * one.confidence}%`;
  row.append(
    element("span", { className: "track", "aria-hidden": "true" }, fill),
    element("span", { className: "value", text: percent(one.confidence) }),
  );
  return row;
}

export function showPrivacy(shown) {
  const { size, measured } = shown;
  const [alice, bob] = shown.parties;
  const style = getComputedStyle(document.documentElement);
  paint($("you"), shown.pixels, size, style.getPropertyValue("--ink"));
  for (const party of shown.parties) paint($(party.name), party.share, size, style.getPropertyValue(`--${party.name}`));
  const count = size.height * size.width * size.channels;
  facts("you-facts", [
    ["As the model takes it", `${size.height} × ${size.width}${size.channels > 1 ? ` × ${size.channels}` : ""} values`],
    ["Sent unencrypted", "0 bytes"],
    ["The shares add up to it", `${count.toLocaleString("en")} sums in a ring of whole numbers`],
  ]);
  facts("alice-facts", received(alice, "her share, sealed to her key"));
  facts("bob-facts", received(bob, "a 32-byte seed that he expands to his share, sealed to his key"));
  $("privacy-lead").textContent =
    "What each party received in that call. The depth of a point’s colour shows the highest byte of a number in the share. " +
    "Any other input would give noise just like this.";
  showCall(measured, shown.formula);
}

function received(party, what) {
  return [
    [`Received: ${what}`, bytes(party.envelope_bytes)],
    ["Its first bytes on the wire", hex(party.envelope, party.envelope_bytes), "hex"],
    ["Sent back: a share of the answer, sealed to you", bytes(party.result_bytes)],
    [party.result.length < 2 * party.result_bytes ? "Its first bytes" : "All its bytes", hex(party.result, party.result_bytes), "hex"],
  ];
}

function hex(text, length) {
  return text.match(/.{1,8}/g).join(" ") + (text.length < 2 * length ? " …" : "");
}

function facts(id, rows) {
  const made = rows.map(([name, value, className]) =>
    element(
      "div",
      {},
      element("dt", { text: name }),
      element("dd", { text: value, className }),
    ),
  );
  $(id).replaceChildren(...made);
}

/** Bytes as a picture: grey ones in shades of `tone`, from the ground up; coloured ones as they are. */
function paint(canvas, base64, { width, height, channels }, tone) {
  const raw = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const [r, g, b] = /^#(..)(..)(..)$/.exec(tone.trim()).slice(1).map((part) => parseInt(part, 16));
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    const rgba = channels === 3 ? [...raw.slice(3 * at, 3 * at + 3), 255] : [r, g, b, raw[at]];
    pixels.data.set(rgba, 4 * at);
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function showCall(measured, formula) {
  const { seal_ms: seal, exchange_ms: exchange, rounds_ms: rounds, open_ms: open } = measured;
  const known = rounds !== null && rounds <= exchange;
  const travel = known ? exchange - rounds : exchange;
  const steps = [
    ["seal", "Split and seal", seal, words.here],
    ["travel", known ? "Upload, unseal, return" : "Upload, rounds, return", travel, `${bytes(measured.upload_bytes)} up, ${bytes(measured.download_bytes)} down`],
    ...(known ? [["exchange", `${measured.rounds} rounds`, rounds, `${bytes(measured.online_bytes)} each way`]] : []),
    ["open", "Open and join", open, words.here],
  ];
  $("timeline").replaceChildren(
    ...steps.map(([kind, , ms]) => {
      const part = element("span", { className: kind });
      part.style.flexGrow = Math.max(ms, 0.001);
      return part;
    }),
  );
  $("steps").replaceChildren(
    ...steps.map(([kind, name, ms, note]) =>
      element(
        "div",
        {},
        element("dt", { text: name, className: kind }),
        element("dd", { text: milliseconds(ms) }, element("small", { text: note })),
      ),
    ),
  );
  $("steps-note").textContent = known
    ? `${words.timed}, and Alice the rounds. The rest of the exchange is upload, unsealing and return.`
    : `${words.timed}.`;
  showRounds(measured, formula);
  $("call").hidden = false;
}

function showRounds(measured, formula) {
  $("rounds-formula").hidden = $("rounds-area").hidden = !formula.length;
  const say = (n) => n.toLocaleString("en");
  if (!formula.length) {
    $("rounds-lead").textContent =
      `Of this model Alice and Bob check each other in every run, and what they say was checked ${words.here}: had one of them cheated, you would have no answer.`;
    $("rounds-check").textContent = `Alice counted ${measured.rounds} rounds and ${say(measured.online_bytes)} bytes.`;
    return;
  }
  const most = Math.max(...formula.map((round) => round.bytes));
  const many = formula.length > MANY_ROUNDS;
  $("rounds").classList.toggle("many", many);
  // A long list scrolls sideways: the keyboard must get there too.
  const area = $("rounds-area");
  for (const [name, value] of Object.entries({ tabindex: "0", role: "region", "aria-label": "Rounds" })) {
    if (many) area.setAttribute(name, value);
    else area.removeAttribute(name);
  }
  $("rounds").replaceChildren(
    ...formula.map((round) => {
      const column = element("div", { className: "column", "aria-hidden": "true" });
      for (const side of ["from-alice", "from-bob"]) {
        const part = element("span", { className: side });
        part.style.height = `${(100 * round.bytes) / most}%`;
        column.append(part);
      }
      return element(
        "li",
        {},
        column,
        element("span", { className: "size", text: bytes(round.bytes) }),
        element("span", { className: "layer", text: round.layers.join(", ") }),
      );
    }),
  );
  $("rounds-lead").textContent =
    "In each round Alice and Bob send each other equally many masked bytes at once. The bars show how many, and for which layer of the network.";
  const sum = formula.reduce((total, round) => total + round.bytes, 0);
  $("rounds-check").textContent =
    sum === measured.online_bytes && formula.length === measured.rounds
      ? `The formula gives ${formula.length} rounds and ${say(sum)} bytes; Alice counted the same on the wire.`
      : `The formula gives ${formula.length} rounds and ${say(sum)} bytes; Alice counted ${measured.rounds} rounds and ${say(measured.online_bytes)} bytes.`;
}
