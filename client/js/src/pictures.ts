/** Raw pixels of exactly the model's size, as ring elements, by the model's own preprocessing. */

import { Elements, type Encoded, encode } from "./elements.js";
import { encodingOf, type Picture, type Plan } from "./entry.js";
import { InvalidInput } from "./errors.js";

/** What a canvas gives: red, green, blue and opacity of each pixel. */
export interface ImageDataLike {
  width: number;
  height: number;
  data: Uint8Array | Uint8ClampedArray;
}

type Pixels = Uint8Array | Uint8ClampedArray;
const MIDDLE = 127.5;
const BORDER = 16; // the border's width is this part of the picture's shorter side
const LEVELS = 256;

export function isPixels(given: unknown): boolean {
  if (Array.isArray(given)) return given.length > 0 && given.every((one) => isBytes(one) || isImage(one));
  return isBytes(given) || isImage(given);
}

function isBytes(given: unknown): given is Pixels {
  return given instanceof Uint8Array || given instanceof Uint8ClampedArray;
}

function isImage(given: unknown): given is ImageDataLike {
  const { width, height, data } = (given ?? {}) as Partial<ImageDataLike>;
  return typeof width === "number" && typeof height === "number" && isBytes(data);
}

/** Encodes pixels: bytes (rows, height, width) of grey or (rows, height, width, 3) of colour, flat, or a canvas's ImageData. */
export function pixelElements(how: Picture, plan: Plan, given: unknown): Encoded {
  const parts = (Array.isArray(given) ? given : [given]).map((one) => (isBytes(one) ? one : ofImage(one as ImageDataLike, how)));
  const [height, width] = how.size;
  const [area, each] = [height * width, height * width * how.channels];
  const count = parts.reduce((sum, part) => sum + part.length, 0);
  if (!count || parts.some((part) => part.length % each)) throw wrongSize(how);
  const table = Array.from({ length: how.channels }, (_, channel) => levels(how, plan, channel));
  const elements = Elements.zeros(plan.ring_bits, count);
  let [row, inverted] = [0, 0];
  for (const part of parts) {
    for (let start = 0; start < part.length; start += each, row++) {
      const picture = part.subarray(start, start + each);
      const flip = isInverted(picture, how);
      inverted += flip ? 1 : 0;
      for (let at = 0; at < each; at++) {
        const [pixel, channel] = [Math.floor(at / how.channels), at % how.channels];
        const level = flip ? LEVELS - 1 - picture[at]! : picture[at]!;
        elements.copy(table[channel]!, level, row * each + channel * area + pixel);
      }
    }
  }
  return { rows: count / each, elements, inverted };
}

function wrongSize(how: Picture): InvalidInput {
  const wanted = `${how.size.join(" x ")} pixels${how.channels === 3 ? " of red, green and blue" : ""}`;
  return new InvalidInput(`the model takes pictures of ${wanted}: draw the picture on a canvas of that size first`);
}

/** The ring elements of all 256 levels of a channel, in single precision as torchvision computes them. */
function levels(how: Picture, plan: Plan, channel: number): Elements {
  const [mean, std] = [Math.fround(how.mean[channel]!), Math.fround(how.std[channel]!)];
  const values = Float64Array.from({ length: LEVELS }, (_, level) => {
    const scaled = Math.fround(level / (LEVELS - 1));
    return Math.fround(Math.fround(scaled - mean) / std);
  });
  const { low, high } = plan.input;
  const half = 0.5 * 2 ** -plan.input.frac_bits;
  if (values[0]! < low - half || values.at(-1)! > high + half) {
    throw new InvalidInput("the model's range does not hold all pixels: pass numbers");
  }
  return encode(values, encodingOf(plan));
}

/** Whether a grey picture has the other polarity than the model takes: its border tells. */
function isInverted(picture: Pixels, how: Picture): boolean {
  if (how.polarity === null || how.channels !== 1) return false;
  const [height, width] = how.size;
  const wide = Math.max(Math.floor(Math.min(height, width) / BORDER), 1);
  let [sum, count] = [0, 0];
  picture.forEach((level, at) => {
    const [row, column] = [Math.floor(at / width), at % width];
    if (row >= wide && row < height - wide && column >= wide && column < width - wide) return;
    sum += level;
    count += 1;
  });
  return sum / count > MIDDLE !== (how.polarity === "dark-on-light");
}

/** The pixels of a canvas, over white where they are not opaque, in the model's colours. */
function ofImage(image: ImageDataLike, how: Picture): Pixels {
  const [height, width] = how.size;
  if (image.width !== width || image.height !== height || image.data.length !== 4 * width * height) throw wrongSize(how);
  const made = new Uint8Array(width * height * how.channels);
  for (let at = 0; at < width * height; at++) {
    const opacity = image.data[4 * at + 3]!;
    const [red, green, blue] = [0, 1, 2].map((channel) => {
      const level = image.data[4 * at + channel]!;
      return Math.round((level * opacity + (LEVELS - 1) * (LEVELS - 1 - opacity)) / (LEVELS - 1));
    }) as [number, number, number];
    if (how.channels === 3) made.set([red, green, blue], 3 * at);
    else made[at] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16; // ITU-R 601, as Pillow rounds it
  }
  return made;
}
