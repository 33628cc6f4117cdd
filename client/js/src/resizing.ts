/** Resizes pixels to the bit as Pillow does: across, then down, with weights of 22 bits, each rounded to a byte. */

export type Interpolation = "bilinear" | "bicubic";

interface Filter {
  /** How far from the middle it is not zero, in pixels. */
  reach: number;
  at: (x: number) => number;
}

const FILTERS: Record<Interpolation, Filter> = {
  bilinear: { reach: 1, at: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: { reach: 2, at: (x) => cubic(Math.abs(x)) },
};
const ONE = 2 ** 22;

/** The cubic of Keys, with a = -0.5. */
function cubic(x: number): number {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** Resizes pixels (height, width, channels) to (newHeight, newWidth, channels). */
export function resized(
  pixels: Uint8Array,
  [height, width]: [number, number],
  [newHeight, newWidth]: [number, number],
  interpolation: Interpolation,
): Uint8Array {
  const channels = pixels.length / (height * width);
  const across = along(pixels, height, width, newWidth, channels, FILTERS[interpolation]);
  return along(across, 1, height, newHeight, newWidth * channels, FILTERS[interpolation]);
}

/** Resizes the middle axis of bytes (outer, from, inner). */
function along(bytes: Uint8Array, outer: number, from: number, to: number, inner: number, filter: Filter): Uint8Array {
  if (from === to) return bytes;
  const made = new Uint8Array(outer * to * inner);
  weights(from, to, filter).forEach(([first, factors], place) => {
    for (let part = 0; part < outer; part++) {
      const source = (part * from + first) * inner;
      const target = (part * to + place) * inner;
      for (let at = 0; at < inner; at++) {
        let sum = ONE / 2;
        for (let tap = 0; tap < factors.length; tap++) sum += factors[tap]! * bytes[source + tap * inner + at]!;
        made[target + at] = Math.min(Math.max(Math.floor(sum / ONE), 0), 255);
      }
    }
  });
  return made;
}

/** For each new place, the first old one that it is made of, and the factors of that one and the next ones. */
function weights(from: number, to: number, { reach, at }: Filter): [number, number[]][] {
  const scale = from / to;
  const wide = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - reach * wide + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach * wide + 0.5), from);
    const raw = Array.from({ length: end - first }, (_, tap) => at((tap + first - center + 0.5) * (1 / wide)));
    const sum = raw.reduce((total, one) => total + one, 0);
    return [first, raw.map((one) => Math.trunc((one / sum) * ONE + (one < 0 ? -0.5 : 0.5)))];
  });
}
