// The page: choose a model, draw or pick a picture or fill in a row, ask, show what came of it.
//
// It is the same for a client's sidecar and for the owner's catalogue. `own/asking.js` is theirs: it asks.

import { Pad } from "./drawing.js";
import { Form } from "./form.js";
import * as asking from "./own/asking.js";
import { element, showAnswer, showPrivacy } from "./view.js";

const $ = (id) => document.getElementById(id);
const PAUSE = 300; // ms after a stroke: there may be another
const LONG = 3000; // ms without an answer
const { words } = asking;
const DOWN = words.down;

let models = [];
let source = null; // what was asked last: { blob, picture, invert }, { drawing } or { row }
let shown = null;
let pending = null;
let timer = 0;

const pad = new Pad($("canvas"), {
  onstart: () => {
    clearTimeout(timer);
    $("hint").hidden = true;
    $("invert-field").hidden = true;
    describe("Drawing area, with a drawing");
  },
  ondone: () => {
    source = { drawing: true };
    timer = setTimeout(ask, PAUSE);
  },
});

const form = new Form($("form"), $("columns"), (row) => {
  source = { row };
  void ask();
});

const model = () => models.find((one) => one.name === $("model").value);
const describe = (text) => $("canvas").setAttribute("aria-label", text);

async function loadModels() {
  forgive();
  const before = $("model").value;
  try {
    models = await asking.models();
  } catch (problem) {
    complain(problem, loadModels);
    return;
  }
  $("model").replaceChildren(
    ...models.map((one) => element("option", { text: one.name, value: one.name, ...(takes(one) ? {} : { disabled: "" }) })),
  );
  const first = models.find((one) => one.name === before) ?? models.find((one) => takes(one) && one.gives === "logits") ?? models.find(takes);
  if (!first) {
    complain(
      {
        title: models.length ? "No published model takes pictures or rows of a table" : "No model is published yet",
        hint: "The model owner publishes one with: moiety publish",
        ...(models.some((one) => one.closed) ? words.closed : {}),
      },
      loadModels,
    );
    return;
  }
  $("model").value = first.name;
  choose();
}

const takes = (one) => (one.picture !== null || one.columns !== null) && one.gives !== "count" && !one.closed;

function choose() {
  const { description, version, picture, columns, rounds, gives, verified } = model();
  const size = columns
    ? `${columns.length} ${columns.length === 1 ? "column" : "columns"}`
    : `${picture.width}\u00a0×\u00a0${picture.height} ${picture.channels === 3 ? "colour" : "grey"}`;
  const told = { labels: "gives only the likeliest classes", decision: "gives only which of two classes it is" }[gives] ?? "gives all its outputs";
  $("about").textContent = [description, `version ${version}`, size, `${rounds} rounds`, told, verified ? "a party that cheats is caught" : ""].filter(Boolean).join(" · ");
  $("ask-title").textContent = columns ? "Your row" : "Your picture";
  $("form").hidden = !columns;
  $("picture-field").hidden = Boolean(columns);
  if (columns) form.show(columns);
  const digits = isForDigits();
  pad.enabled = digits;
  $("pad").classList.toggle("only-pictures", !digits);
  $("samples-field").hidden = !digits || !words.samples;
  $("hint").textContent = digits ? "Draw a digit, or drop a picture here" : "Drop a picture here, or choose one below";
  clear();
}

const isForDigits = () => {
  if (!model().picture) return false;
  const { width, height, channels } = model().picture;
  return channels === 1 && width === 28 && height === 28;
};

function clear() {
  clearTimeout(timer);
  pending?.abort();
  source = null;
  pad.clear();
  form.clear();
  forgive();
  describe("Drawing area, empty");
  $("hint").hidden = false;
  $("invert-field").hidden = true;
  $("answer").classList.add("waiting");
  $("label").textContent = "?";
  $("label").classList.remove("long");
  $("sure").textContent = model()?.columns ? "Waiting for a row" : "Waiting for a picture";
  $("took").textContent = "";
  $("bars").replaceChildren();
}

async function take(blob, name, { invert } = {}) {
  clearTimeout(timer);
  if (!model()?.picture) return;
  let picture;
  try {
    picture = await createImageBitmap(blob);
  } catch {
    complain({ title: "The browser cannot read this picture", hint: "Choose a PNG, JPEG, WebP, GIF or BMP file." });
    return;
  }
  const grey = model().picture.channels === 1;
  $("invert").checked = false;
  $("invert-field").hidden = !grey || invert !== undefined;
  $("hint").hidden = true;
  source = { blob, picture, invert };
  showPicture(false);
  describe(`The picture ${name}`);
  await ask();
}

/** Show a digit as ink on this page's paper, whether it is light on dark or was inverted for the model. */
function showPicture(inverted) {
  const paper = isForDigits() && matchMedia("(prefers-color-scheme: light)").matches;
  pad.show(source.picture, { inverted: paper && !inverted });
}

async function ask() {
  if (!source) return;
  const { name, picture } = model();
  pending?.abort();
  const mine = (pending = new AbortController());
  const started = performance.now();
  $("status").textContent = "Asking the model";
  const late = setTimeout(() => ($("took").textContent = "There is no answer yet: the page goes on asking."), LONG);
  try {
    const asked = source;
    const taken = asked.row ? { row: asked.row } : { picture: asked.drawing ? await pad.small(picture) : asked.blob };
    const answer = await asking.ask(name, { ...taken, invert: asked.invert }, mine.signal);
    if (mine.signal.aborted) return;
    if (asked.picture) {
      $("invert").checked = answer.inverted;
      showPicture(answer.inverted);
    }
    forgive();
    shown = answer;
    showAnswer(shown, (performance.now() - started) / 1e3);
    showPrivacy(shown);
  } catch (problem) {
    if (!mine.signal.aborted) complain(problem, ask);
  } finally {
    clearTimeout(late);
  }
}

let repeat = null;

function complain(problem, again = null) {
  repeat = again;
  $("problem-title").textContent = problem.title ?? "Something went wrong on this page";
  const said = problem.detail && problem.detail !== problem.title ? `${sentence(problem.detail)} ` : "";
  $("problem-text").textContent = said + (problem.hint ?? "Reload the page. The browser’s console says more.");
  $("again").hidden = !again;
  $("problem").hidden = false;
  $("answer").hidden = true;
  $("status").textContent = "";
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function forgive() {
  $("problem").hidden = true;
  $("answer").hidden = false;
}

$("model").addEventListener("change", choose);
$("clear").addEventListener("click", clear);
$("choose").addEventListener("click", () => $("file").click());
$("again").addEventListener("click", () => repeat?.());
$("invert").addEventListener("change", () => {
  source.invert = $("invert").checked;
  void ask();
});
$("example").addEventListener("click", () => form.fill());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) void take(file, file.name);
  $("file").value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault(); // a picture beside the pad must not replace the page
    $("pad").classList.toggle("over", kind === "dragover" && $("pad").contains(event.target));
    const [file] = kind === "drop" && $("pad").contains(event.target) ? event.dataTransfer.files : [];
    if (file && !file.name.endsWith(".json")) void take(file, file.name);
  });
}
if (asking.admit) {
  const admit = async (file) => {
    try {
      await asking.admit(await file.text());
    } catch (problem) {
      complain(problem);
      return;
    }
    await loadModels();
  };
  $("access-field").hidden = false;
  $("access").addEventListener("click", () => $("access-file").click());
  $("access-file").addEventListener("change", () => {
    const [file] = $("access-file").files;
    if (file) void admit(file);
    $("access-file").value = "";
  });
  window.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file?.name.endsWith(".json")) void admit(file);
  });
}
$("lead").textContent = words.lead;
$("foot").prepend(`${words.foot} `);
$("reference").hidden = !words.reference;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  pad.draw();
  if (shown) showPrivacy(shown);
});
for (let digit = 0; words.samples && digit < 10; digit++) {
  const picture = element("img", { src: `${words.samples}/${digit}.png`, alt: "", width: 28, height: 28 });
  const button = element("button", { type: "button", "aria-label": `Handwritten ${digit}` }, picture);
  button.addEventListener("click", async () => {
    const response = await fetch(picture.src).catch(() => null);
    if (response?.ok) await take(await response.blob(), `of a handwritten ${digit}`, { invert: false });
    else complain(DOWN, () => button.click());
  });
  $("samples").append(element("li", {}, button));
}
$("answer").classList.add("waiting");
void loadModels();
