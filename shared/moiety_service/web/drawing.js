// The pad: strokes with a pen, a finger or a mouse, and the small picture that a digit model takes of them.

const WIDTH = 0.075; // of the pad's side: about what MNIST's pens have
const FILLED = 20 / 28; // MNIST's digits fill so much of their picture, centred by mass
const FINE = 4; // drawn so much finer first, then made smaller

export class Pad {
  #canvas;
  #strokes = [];
  #picture = null;
  #pen = null;
  #enabled = false;

  constructor(canvas, { onstart, ondone }) {
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.#enabled || event.button !== 0) return;
      if (this.#picture) this.clear();
      this.#pen = event.pointerId;
      canvas.setPointerCapture(event.pointerId);
      this.#strokes.push([this.#at(event)]);
      this.draw();
      onstart();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.#pen) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) this.#strokes.at(-1).push(this.#at(one));
      this.draw();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (event.pointerId !== this.#pen) return;
        this.#pen = null;
        ondone();
      });
    }
  }

  get drawn() {
    return this.#strokes.length > 0;
  }

  set enabled(value) {
    this.#enabled = value;
  }

  clear() {
    this.#strokes = [];
    this.#picture = null;
    this.draw();
  }

  /** Show a picture (an ImageBitmap) in place of a drawing. */
  show(picture, { inverted = false } = {}) {
    this.#strokes = [];
    this.#picture = { picture, inverted };
    this.draw();
  }

  draw() {
    const { width, height } = this.#canvas;
    const pen = this.#canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (this.#picture) {
      const { picture, inverted } = this.#picture;
      const scale = Math.min(width / picture.width, height / picture.height);
      const [w, h] = [picture.width * scale, picture.height * scale];
      pen.imageSmoothingQuality = "high";
      pen.filter = inverted ? "invert(1)" : "none";
      pen.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
      pen.filter = "none";
    }
    pen.strokeStyle = getComputedStyle(this.#canvas).color;
    trace(pen, this.#strokes, WIDTH * width, ([x, y]) => [x * width, y * height]);
  }

  /** The drawing as a PNG of that size: light on dark, as large and as centred as MNIST's digits are. */
  async small({ width, height }) {
    const points = this.#strokes.flat();
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const side = FINE * Math.min(width, height);
    const scale = (FILLED * side) / Math.max(right - left + WIDTH, bottom - top + WIDTH, 0.2);
    const raster = (dx, dy) => {
      const pen = blank(FINE * width, FINE * height);
      pen.strokeStyle = "#fff";
      const place = ([x, y]) => [(x - (left + right) / 2) * scale + dx, (y - (top + bottom) / 2) * scale + dy];
      trace(pen, this.#strokes, WIDTH * 1.15 * side * FILLED, place);
      return pen;
    };
    const [cx, cy] = [(FINE * width) / 2, (FINE * height) / 2];
    const [mx, my] = centreOfMass(raster(cx, cy));
    const small = blank(width, height);
    small.imageSmoothingQuality = "high";
    small.drawImage(raster(2 * cx - mx, 2 * cy - my).canvas, 0, 0, width, height);
    return small.canvas.convertToBlob({ type: "image/png" });
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
}

function blank(width, height, colour = "#000") {
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.fillStyle = colour;
  pen.fillRect(0, 0, width, height);
  return pen;
}

function trace(pen, strokes, width, place) {
  pen.lineWidth = width;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    const points = stroke.map(place);
    pen.beginPath();
    pen.moveTo(...points[0]);
    if (points.length === 1) pen.lineTo(...points[0]);
    for (let at = 1; at < points.length; at++) {
      const [x, y] = points[at];
      const [px, py] = points[at - 1];
      pen.quadraticCurveTo(px, py, (px + x) / 2, (py + y) / 2);
    }
    pen.lineTo(...points.at(-1));
    pen.stroke();
  }
}

function centreOfMass(pen) {
  const { width, height } = pen.canvas;
  const { data } = pen.getImageData(0, 0, width, height);
  let [mass, mx, my] = [0, 0, 0];
  for (let at = 0; at < data.length; at += 4) {
    mass += data[at];
    mx += data[at] * ((at / 4) % width);
    my += data[at] * Math.floor(at / 4 / width);
  }
  return mass ? [mx / mass + 0.5, my / mass + 0.5] : [width / 2, height / 2];
}
