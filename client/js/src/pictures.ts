/** Pixels as ring elements, by the model's own preprocessing. Pictures are resized and cut as the Python client does. */

import { Elements, type Encoded, encode } from "./elements.js";
import { encodingOf, type Picture, type Plan } from "./entry.js";
import { InvalidInput } from "./errors.js";
import { resized } from "./resizing.js";

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
export const MAX_PIXELS = 50_000_000; // the largest photographs of a telephone
const MOST_MADE = 2 ** 24; // pixels after resizing: 4096 x 4096, where models take 224 x 224
const MOST_LONGER = 20; // times as long as what the model takes: it would see less than 1/20 of a longer picture

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

/**
 * Encodes pixels: bytes (rows, height, width) of grey or (rows, height, width, 3) of colour, flat, or pictures. `invert` says whether
 * to swap dark and light; without it, those of the other polarity than the model's are.
 */
export function pixelElements(how: Picture, plan: Plan, given: unknown, invert?: boolean): Encoded {
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
      const flip = invert ?? isInverted(picture, how);
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
  return new InvalidInput(`the model takes pictures of ${wanted}: pass so many bytes, or a picture, which the client resizes`);
}

export function tooLarge(): InvalidInput {
  return new InvalidInput(`the picture has more than ${MAX_PIXELS} pixels: make it smaller`);
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
  if ((how.polarity ?? null) === null || how.channels !== 1) return false;
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

/** The pixels that the model takes of a picture: in its colours, of its size, and the middle of it. Throws InvalidInput. */
function ofImage(image: ImageDataLike, how: Picture): Pixels {
  const { width, height, data } = image;
  if (data.length !== 4 * width * height || !data.length) throw new InvalidInput("pass four bytes for each pixel of the picture");
  if (width * height > MAX_PIXELS) throw tooLarge();
  const [across, down] = [width * how.size[0], height * how.size[1]];
  if (Math.max(across, down) > MOST_LONGER * Math.min(across, down)) {
    const text = `the picture has ${width} x ${height} pixels, more than ${MOST_LONGER} times as long as what the model takes`;
    throw new InvalidInput(`${text}: cut out the part that the model needs`);
  }
  const size = resizedTo(image, how);
  if (size[0] * size[1] > MOST_MADE) {
    throw new InvalidInput(`the model wants the picture resized to more than ${MOST_MADE} pixels: cut out the part that the model needs`);
  }
  return cut(resized(coloured(image, how.channels), [height, width], size, how.interpolation ?? "bilinear"), size, how);
}

/** The height and width to resize to: of the shorter side as the model says, the longer one in proportion. */
function resizedTo({ width, height }: ImageDataLike, { resize, size }: Picture): [number, number] {
  const proportion = (side: number) => Math.max(Math.floor((resize! * side) / Math.min(width, height)), 1);
  return (resize ?? null) === null ? size : [proportion(height), proportion(width)];
}

/** The picture over white where it is not opaque, in the model's colours, each step rounded as Pillow rounds it. */
function coloured({ width, height, data }: ImageDataLike, channels: 1 | 3): Uint8Array {
  const made = new Uint8Array(width * height * channels);
  for (let at = 0; at < width * height; at++) {
    const opacity = data[4 * at + 3]!;
    const over = (channel: number) => {
      const sum = 128 * (data[4 * at + channel]! * opacity + (LEVELS - 1) * (LEVELS - 1 - opacity)) + 0x4000;
      return (((sum >> 8) + sum) >> 8) >> 7;
    };
    if (channels === 3) for (let channel = 0; channel < 3; channel++) made[3 * at + channel] = over(channel);
    else made[at] = (over(0) * 19595 + over(1) * 38470 + over(2) * 7471 + 0x8000) >> 16; // ITU-R 601
  }
  return made;
}

/** Cuts the model's size out of the middle; half a pixel goes to the even side. */
function cut(pixels: Uint8Array, [height, width]: [number, number], { size, channels }: Picture): Uint8Array {
  const [top, left] = [middle(height - size[0]), middle(width - size[1])];
  if (height === size[0] && width === size[1]) return pixels;
  const made = new Uint8Array(size[0] * size[1] * channels);
  for (let row = 0; row < size[0]; row++) {
    const start = ((top + row) * width + left) * channels;
    made.set(pixels.subarray(start, start + size[1] * channels), row * size[1] * channels);
  }
  return made;
}

function middle(spare: number): number {
  return spare % 4 === 3 ? (spare + 1) / 2 : Math.floor(spare / 2);
}
