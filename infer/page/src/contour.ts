/** Outlines: of pixels, as OpenCV's findContours has them, and of a probability, finer. */
import type { Plane, Point } from "./types";

// Eight neighbours, clockwise on the screen, from the right.
const AROUND: Point[] = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]];

/** The outer border of the largest blob, corners only (Suzuki and Abe, 1985). */
export function trace(on: Uint8Array, width: number, height: number): Point[] {
  const seen = new Uint8Array(on.length);
  let best: Point[] = [], largest = -1;
  for (let place = 0; place < on.length; place++) {
    if (!on[place] || seen[place]) continue;
    fill(on, seen, place, width, height);
    const border = follow(on, place, width, height);
    const size = Math.abs(area(border));
    if (size > largest) { largest = size; best = border; }
  }
  return best;
}

function fill(on: Uint8Array, seen: Uint8Array, start: number, width: number, height: number) {
  const waiting = [start];
  seen[start] = 1;
  for (let place = waiting.pop(); place !== undefined; place = waiting.pop()) {
    for (const [a, b] of AROUND) {
      const x = (place % width) + a, y = Math.floor(place / width) + b, next = y * width + x;
      if (x < 0 || y < 0 || x >= width || y >= height || !on[next] || seen[next]) continue;
      seen[next] = 1;
      waiting.push(next);
    }
  }
}

function follow(on: Uint8Array, start: number, width: number, height: number): Point[] {
  const lit = (x: number, y: number) =>
    x >= 0 && y >= 0 && x < width && y < height && on[y * width + x] === 1;
  const step = (x: number, y: number, from: number, turn: 1 | -1): number => {
    for (let n = 1; n <= 8; n++) {
      const way = (from + turn * n + 16) % 8;
      if (lit(x + AROUND[way]![0], y + AROUND[way]![1])) return way;
    }
    return -1;
  };
  const x0 = start % width, y0 = Math.floor(start / width);
  const back = step(x0, y0, 4, 1); // the last pixel of the border is the first one clockwise
  if (back < 0) return [[x0, y0]];
  const last: Point = [x0 + AROUND[back]![0], y0 + AROUND[back]![1]];
  const corners: Point[] = [];
  let [x, y] = [x0, y0], before = back, direction = (back + 4) % 8;
  for (let limit = 4 * on.length + 8; limit > 0; limit--) {
    const way = step(x, y, before, -1);
    if (way !== direction) corners.push([x, y]);
    direction = way;
    const [a, b] = AROUND[way]!;
    const ends = x === last[0] && y === last[1] && x + a === x0 && y + b === y0;
    [x, y] = [x + a, y + b];
    if (ends) break;
    before = (way + 4) % 8;
  }
  return corners;
}

function area(border: Point[]): number {
  return border.reduce((sum, [x, y], n) => {
    const [a, b] = border[(n + 1) % border.length]!;
    return sum + (x * b - a * y) / 2;
  }, 0);
}

/**
 * The closed curves at a level, by marching squares, in pixels of the plane's corner.
 *
 * Outside of the part the plane counts as 0, so that every curve closes.
 */
export function level(
  plane: Plane, at: number, [left, top, right, bottom]: [number, number, number, number],
): Float32Array[] {
  const value = (x: number, y: number) =>
    x < left || y < top || x >= right || y >= bottom ? 0 : plane.data[y * plane.width + x]!;
  // An edge between two pixels has a number; each curve goes from edge to edge.
  const wide = right - left + 3, next = new Map<number, number>();
  const across = (x: number, y: number) => 2 * ((y - top + 1) * wide + x - left + 1);
  const down = (x: number, y: number) => across(x, y) + 1;
  for (let y = top - 1; y < bottom; y++) {
    for (let x = left - 1; x < right; x++) {
      const [a, b, c, d] = [value(x, y), value(x + 1, y), value(x + 1, y + 1), value(x, y + 1)];
      const kind = +(a >= at) + 2 * +(b >= at) + 4 * +(c >= at) + 8 * +(d >= at);
      if (kind === 0 || kind === 15) continue;
      const [n, e, s, w] = [across(x, y), down(x + 1, y), across(x, y + 1), down(x, y)];
      const joined = a + b + c + d >= 4 * at; // of a saddle: whether its middle is inside
      const lines: { [kind: number]: number[] } = {
        1: [w, n], 2: [n, e], 3: [w, e], 4: [e, s], 6: [n, s], 7: [w, s], 8: [s, w], 9: [s, n],
        11: [s, e], 12: [e, w], 13: [e, n], 14: [n, w],
        5: joined ? [w, s, e, n] : [w, n, e, s], 10: joined ? [n, w, s, e] : [n, e, s, w],
      };
      const line = lines[kind]!;
      for (let k = 0; k < line.length; k += 2) next.set(line[k]!, line[k + 1]!);
    }
  }
  const place = (edge: number): Point => {
    const cell = edge >> 1, x = (cell % wide) + left - 1, y = Math.floor(cell / wide) + top - 1;
    const one = value(x, y), other = edge & 1 ? value(x, y + 1) : value(x + 1, y);
    const share = (at - one) / (other - one);
    return edge & 1 ? [x + 0.5, y + share + 0.5] : [x + share + 0.5, y + 0.5];
  };
  const curves: Float32Array[] = [];
  for (const start of next.keys()) {
    const curve: number[] = [];
    for (let edge: number | undefined = start; edge !== undefined;) {
      curve.push(...place(edge));
      const onward: number | undefined = next.get(edge);
      next.delete(edge);
      edge = onward;
    }
    if (curve.length >= 6) curves.push(Float32Array.from(curve));
  }
  return curves;
}
