/** What the effects draw with: outlines, lids, irises and soft-edged parts. */
import { level } from "./contour";
import { extent } from "./eyes";
import type { Restored } from "./frame";
import { apply, clamp } from "./raster";
import type { Constants, Eye, Matrix, Patch, Picture, Point, Shape } from "./types";

const IRIS = 0.21; // its radius, in widths of a wide open eye (12 mm of 30)
const INSIDE = 0.8; // a probability that lashes and the shadow of a lid do not have

export function shapesOf(
  photo: Picture, part: Restored, matrix: Matrix, eyes: Eye[], face: number, constants: Constants,
): Shape[] {
  const found = extent(part, constants.network.threshold);
  if (!found) return [];
  const curves = level(part.plane, constants.network.threshold, found).map((curve) =>
    curve.map((value, n) => value + (n % 2 ? part.y : part.x)));
  return eyes.map((eye) => {
    const outline = curves.filter((curve) => inside(curve, eye.box));
    return {
      side: eye.side, face, outline,
      lid: lidOf(outline, matrix), iris: irisOf(photo, part, eye, matrix),
    };
  });
}

function inside(curve: Float32Array, [x, y, width, height]: Eye["box"]): boolean {
  return curve[0]! >= x - 1 && curve[0]! <= x + width + 1 &&
    curve[1]! >= y - 1 && curve[1]! <= y + height + 1;
}

/** The upper half of the longest curve, from corner to corner along the face's axes. */
function lidOf(outline: Float32Array[], matrix: Matrix): Point[] {
  const curve = outline.reduce((a, b) => (b.length > a.length ? b : a), new Float32Array());
  const points: { at: Point; across: number; down: number }[] = [];
  for (let n = 0; n < curve.length; n += 2) {
    const at: Point = [curve[n]!, curve[n + 1]!];
    const [across, down] = apply(matrix, ...at);
    points.push({ at, across, down });
  }
  if (points.length < 3) return [];
  points.sort((a, b) => a.across - b.across);
  const [first, last] = [points[0]!, points[points.length - 1]!];
  return points.filter(({ across, down }) => {
    const share = (across - first.across) / Math.max(last.across - first.across, 1e-6);
    return down <= first.down + share * (last.down - first.down);
  }).map(({ at }) => at);
}

/** Where the eye is darkest: a guess that is good enough to be coloured. */
function irisOf(
  photo: Picture, part: Restored, eye: Eye, matrix: Matrix,
): Shape["iris"] {
  const pixel = Math.hypot(matrix[0], matrix[1]);
  const ends = eye.contour.map((point) => apply(matrix, ...point)[0]);
  const width = (Math.max(...ends) - Math.min(...ends)) / pixel + 1;
  const [left, top, wide, high] = eye.box;
  const dark: { x: number; y: number; light: number }[] = [];
  const step = Math.max(1, Math.floor(wide / 64)); // a large eye is looked at in part
  for (let y = top; y < top + high; y += step) {
    for (let x = left; x < left + wide; x += step) {
      const value = part.plane.data[(y - part.y) * part.plane.width + x - part.x];
      if (value === undefined || value < INSIDE) continue;
      const at = (y * photo.width + x) * 4;
      const light = photo.data[at]! + photo.data[at + 1]! + photo.data[at + 2]!;
      dark.push({ x: x + 0.5, y: y + 0.5, light });
    }
  }
  dark.sort((a, b) => a.light - b.light);
  // Lashes are dark too, but they lie around: the median of the dark pixels is in the iris.
  const some = dark.slice(0, Math.max(1, Math.floor(dark.length * 0.35)));
  const median = (axis: "x" | "y") =>
    some.map((p) => p[axis]).sort((a, b) => a - b)[some.length >> 1] ?? eye.centre[axis === "x" ? 0 : 1];
  const radius = IRIS * width;
  const share = clamp(1 - (high / Math.max(wide, 1)) * 1.2, 0, 1); // half closed: the lids lie
  return {
    centre: [median("x"), (1 - share) * median("y") + share * eye.centre[1]], radius,
  };
}

/** The soft-edged part of a face's eyes: how opaque infer/output.py cuts them out. */
export function patchOf(part: Restored, { network, eyes }: Constants): Patch | null {
  const found = extent(part, network.threshold - eyes.edge);
  if (!found) return null;
  const [left, top, right, bottom] = found, width = right - left, height = bottom - top;
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let y = 0, to = 3; y < height; y++) {
    for (let x = 0, at = (top + y) * part.plane.width + left; x < width; x++, at++, to += 4) {
      data[to] = 255 * (0.5 + (part.plane.data[at]! - network.threshold) / (2 * eyes.edge));
    }
  }
  return { x: part.x + left, y: part.y + top, width, height, data };
}
