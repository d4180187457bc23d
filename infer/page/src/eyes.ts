/** Eyes as figures and as shapes: the rules of infer/eyes.py, and what the effects draw with. */
import { trace } from "./contour";
import { apply } from "./raster";
import type { Frame, Restored } from "./frame";
import type { Box, Constants, Eye, Point, Side } from "./types";

interface Blob { pixels: number[]; box: [number, number, number, number] }

/** Blobs of pixels that touch, at a corner too; `on` is emptied. */
function blobs(on: Uint8Array, width: number, height: number): Blob[] {
  const found: Blob[] = [];
  for (let start = on.indexOf(1); start >= 0; start = on.indexOf(1, start)) {
    const pixels = [start];
    const box: Blob["box"] = [width, height, -1, -1];
    on[start] = 0;
    for (let n = 0; n < pixels.length; n++) {
      const place = pixels[n]!, x = place % width, y = (place - x) / width;
      box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
      for (let b = Math.max(0, y - 1); b <= Math.min(height - 1, y + 1); b++) {
        for (let a = Math.max(0, x - 1); a <= Math.min(width - 1, x + 1); a++) {
          const next = b * width + a;
          if (on[next]) { on[next] = 0; pixels.push(next); }
        }
      }
    }
    found.push({ pixels, box });
  }
  return found;
}

/** Where something is an eye: left, top, right, bottom (not included); null if nowhere. */
export function extent({ plane }: Restored, least: number): [number, number, number, number] | null {
  const { data, width } = plane;
  let [x0, y0, x1, y1] = [width, plane.height, -1, -1];
  for (let n = 0, x = 0, y = 0; n < data.length; n++) {
    if (data[n]! >= least) {
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      y1 = y;
    }
    if (++x === width) { x = 0; y++; }
  }
  return x1 < 0 ? null : [x0, y0, x1 + 1, y1 + 1];
}

/** Measure the open eyes of one face, the right one first; closed ones are taken out of `part`. */
export function measureEyes(part: Restored, frame: Frame, constants: Constants): Eye[] {
  const { threshold } = constants.network;
  const found = extent(part, threshold);
  if (!found) return [];
  const [left, top, right, bottom] = found, wide = right - left, high = bottom - top;
  const { data, width } = part.plane;
  const whole = (place: number) => (top + Math.floor(place / wide)) * width + left + (place % wide);
  const value = (place: number) => data[whole(place)]!;
  const on = Uint8Array.from({ length: wide * high }, (_, place) => +(value(place) >= threshold));
  const corner: Point = [part.x + left, part.y + top];
  const all = blobs(on, wide, high).map((blob) => {
    const [x, y] = mean(blob.pixels, wide);
    return { ...blob, place: apply(frame.matrix, x + corner[0] + 0.5, y + corner[1] + 0.5)[0] };
  });
  const eyes: Eye[] = [];
  for (const side of ["right", "left"] as Side[]) {
    const there = all.filter((blob) => (blob.place < frame.width / 2) === (side === "right"));
    const largest = Math.max(...there.map((blob) => blob.pixels.length));
    const kept = there.filter(
      (blob) => blob.pixels.length >= constants.eyes.leastShare * largest);
    if (!kept.length) continue;
    const eye = measure(side, kept, wide, corner, frame, value);
    if (eye.openness >= constants.eyes.closed || frame.eye < constants.eyes.telling) eyes.push(eye);
    else for (const { pixels } of there) for (const place of pixels) data[whole(place)] = 0;
  }
  return eyes;
}

function mean(pixels: number[], width: number): Point {
  let [x, y] = [0, 0];
  for (const place of pixels) { x += place % width; y += Math.floor(place / width); }
  return [x / pixels.length, y / pixels.length];
}

function measure(
  side: Side, kept: Blob[], wide: number, corner: Point, frame: Frame,
  value: (place: number) => number,
): Eye {
  const { matrix } = frame, pixels = kept.flatMap((blob) => blob.pixels);
  const ends = [0, 1, 2, 3].map((n) =>
    Math[n < 2 ? "min" : "max"](...kept.map((blob) => blob.box[n]!))) as Box;
  const width = ends[2] - ends[0] + 1, height = ends[3] - ends[1] + 1;
  const on = new Uint8Array(width * height);
  let [low, high, leftmost, rightmost, sum] = [Infinity, -Infinity, Infinity, -Infinity, 0];
  for (const place of pixels) {
    const x = place % wide, y = Math.floor(place / wide);
    on[(y - ends[1]) * width + x - ends[0]] = 1;
    const across = matrix[0] * x + matrix[1] * y, down = matrix[3] * x + matrix[4] * y;
    leftmost = Math.min(leftmost, across); rightmost = Math.max(rightmost, across);
    low = Math.min(low, down); high = Math.max(high, down);
    sum += value(place);
  }
  const pixel = Math.hypot(matrix[0], matrix[1]); // its side, along the face's axes
  const [x, y] = mean(pixels, wide);
  const from: Point = [corner[0] + ends[0], corner[1] + ends[1]];
  return {
    side,
    box: [...from, width, height],
    centre: [x + corner[0] + 0.5, y + corner[1] + 0.5],
    area: pixels.length,
    contour: trace(on, width, height).map(([a, b]): Point => [a + from[0] + 0.5, b + from[1] + 0.5]),
    openness: (high - low + pixel) / Math.max(rightmost - leftmost + pixel, frame.eye * pixel),
    probability: sum / pixels.length,
  };
}
