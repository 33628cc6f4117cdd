/** Picture files and whatever else a browser can draw, as the pixels of a canvas. */

import { InvalidInput } from "./errors.js";
import { type ImageDataLike, MAX_PIXELS, tooLarge } from "./pictures.js";

type Drawable = ImageBitmap | HTMLCanvasElement | OffscreenCanvas;

/** Replaces picture files, bitmaps and canvases by their pixels, alone or in a list. Throws InvalidInput. */
export async function decoded(given: unknown): Promise<unknown> {
  if (Array.isArray(given) && given.some(isSource)) return Promise.all(given.map(decoded));
  return isSource(given) ? pixels(given) : given;
}

function isSource(given: unknown): given is Blob | Drawable {
  const { Blob, ImageBitmap, HTMLCanvasElement, OffscreenCanvas } = globalThis;
  return [Blob, ImageBitmap, HTMLCanvasElement, OffscreenCanvas].some((kind) => kind && given instanceof kind);
}

async function pixels(source: Blob | Drawable): Promise<ImageDataLike> {
  if (typeof OffscreenCanvas === "undefined") {
    throw new InvalidInput("only browsers decode pictures: pass the pixels, as { width, height, data } with red, green, blue and opacity");
  }
  const picture = source instanceof Blob ? await bitmap(source) : source;
  const { width, height } = picture;
  if (width * height > MAX_PIXELS) throw tooLarge();
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  pen.drawImage(picture, 0, 0);
  if (picture !== source) (picture as ImageBitmap).close();
  return pen.getImageData(0, 0, width, height);
}

/** The levels as the file has them: no profile of colours changes them. */
async function bitmap(file: Blob): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new InvalidInput("the file is no picture that this browser reads: pass PNG, JPEG, WebP, GIF or BMP");
  }
}
