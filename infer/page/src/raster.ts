/** Resampling as OpenCV does it, for the rules that infer/frame.py and infer/faces.py state. */
import type { Matrix, Picture, Plane } from "./types";

/** Round half to even, as Python's round(). */
export function round(value: number): number {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 ? low + 1 : low;
}

export const clamp = (value: number, low: number, high: number): number =>
  value < low ? low : value > high ? high : value;

export function invert([a, b, c, d, e, f]: Matrix): Matrix {
  const det = a * e - b * d;
  const [p, q, r, s] = [e / det, -b / det, -d / det, a / det];
  return [p, q, -(p * c + q * f), r, s, -(r * c + s * f)];
}

/** Turn a map between corners of pixels into one between their centres. */
export function toCentres([a, b, c, d, e, f]: Matrix): Matrix {
  return [a, b, c + (a + b) / 2 - 0.5, d, e, f + (d + e) / 2 - 0.5];
}

export const apply = (m: Matrix, x: number, y: number): [number, number] =>
  [m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]];

/** Let a map begin at another corner of the photo. */
export function moved(m: Matrix, x: number, y: number): Matrix {
  const [left, top] = apply(m, x, y);
  return [m[0], m[1], left, m[3], m[4], top];
}

/** Average blocks of times x times pixels of a part; past the photo's border it is repeated. */
export function shrinkBy(
  photo: Picture, times: number, left: number, top: number, width: number, height: number,
): Picture {
  const { data: from, width: wide } = photo;
  const out = new Uint8ClampedArray(width * height * 4);
  const sums = new Uint32Array(width * 3);
  const right = photo.width - 1, bottom = photo.height - 1;
  for (let y = 0, to = 0; y < height; y++) {
    sums.fill(0);
    for (let row = 0; row < times; row++) {
      const start = Math.min(top + y * times + row, bottom) * wide;
      for (let x = 0, sum = 0, at = left; x < width; x++, sum += 3) {
        let red = 0, green = 0, blue = 0;
        for (let n = 0; n < times; n++, at++) {
          const place = (start + (at < right ? at : right)) * 4;
          red += from[place]!; green += from[place + 1]!; blue += from[place + 2]!;
        }
        sums[sum]! += red; sums[sum + 1]! += green; sums[sum + 2]! += blue;
      }
    }
    for (let sum = 0; sum < sums.length; sum += 3, to += 4) {
      for (let c = 0; c < 3; c++) out[to + c] = sums[sum + c]! / (times * times);
      out[to + 3] = 255;
    }
  }
  return { data: out, width, height };
}

interface Shares { first: Int32Array; weights: Float32Array[] }

/** Which pixels each new pixel covers, and how much of each. */
function areaShares(from: number, to: number): Shares {
  const first = new Int32Array(to);
  const weights: Float32Array[] = [];
  for (let n = 0; n < to; n++) {
    const start = (n * from) / to, end = ((n + 1) * from) / to;
    const low = Math.floor(start + 1e-6), high = Math.min(from, Math.ceil(end - 1e-6));
    first[n] = low;
    weights.push(Float32Array.from({ length: high - low }, (_, k) =>
      ((Math.min(end, low + k + 1) - Math.max(start, low + k)) * to) / from));
  }
  return { first, weights };
}

/** Resize by area: each new pixel is the mean of what it covers. */
export function resizeArea(photo: Picture, width: number, height: number): Picture {
  if (width === photo.width && height === photo.height) return photo;
  const across = areaShares(photo.width, width), down = areaShares(photo.height, height);
  const rows = new Float32Array(photo.height * width * 3);
  for (let y = 0, to = 0; y < photo.height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const shares = across.weights[x]!;
      let at = (y * photo.width + across.first[x]!) * 4;
      for (let k = 0; k < shares.length; k++, at += 4) {
        const share = shares[k]!;
        rows[to]! += share * photo.data[at]!;
        rows[to + 1]! += share * photo.data[at + 1]!;
        rows[to + 2]! += share * photo.data[at + 2]!;
      }
    }
  }
  const out = new Uint8ClampedArray(width * height * 4).fill(255);
  const sum = new Float32Array(width * 3);
  for (let y = 0; y < height; y++) {
    const shares = down.weights[y]!;
    sum.fill(0);
    for (let k = 0; k < shares.length; k++) {
      const share = shares[k]!, start = (down.first[y]! + k) * width * 3;
      for (let n = 0; n < sum.length; n++) sum[n]! += share * rows[start + n]!;
    }
    for (let x = 0, n = 0, to = y * width * 4; x < width; x++, to += 4) {
      out[to] = sum[n++]!; out[to + 1] = sum[n++]!; out[to + 2] = sum[n++]!;
    }
  }
  return { data: out, width, height };
}

/** Keys' cubic with OpenCV's -0.75: the weights of the four pixels around a place. */
function cubic(t: number, out: Float32Array): void {
  const a = -0.75;
  out[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
  out[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
  out[2] = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1;
  out[3] = 1 - out[0] - out[1] - out[2];
}

/**
 * Sample a photo through a map from new pixels to the photo's, between centres.
 *
 * Where the map leads outside of the photo, its border is repeated.
 */
export function warp(
  photo: Picture, back: Matrix, width: number, height: number, rule: "linear" | "cubic",
): Picture {
  const { data: from, width: wide, height: high } = photo;
  const out = new Uint8ClampedArray(width * height * 4).fill(255);
  const taps = rule === "cubic" ? 4 : 2, before = taps / 2 - 1;
  const wx = new Float32Array(4), wy = new Float32Array(4);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 4) {
      const sx = back[0] * x + back[1] * y + back[2], sy = back[3] * x + back[4] * y + back[5];
      const fx = Math.floor(sx), fy = Math.floor(sy), tx = sx - fx, ty = sy - fy;
      if (taps === 4) {
        cubic(tx, wx);
        cubic(ty, wy);
      } else {
        wx[0] = 1 - tx; wx[1] = tx; wy[0] = 1 - ty; wy[1] = ty;
      }
      let red = 0, green = 0, blue = 0;
      for (let j = 0; j < taps; j++) {
        const row = clamp(fy + j - before, 0, high - 1) * wide;
        for (let i = 0; i < taps; i++) {
          const at = (row + clamp(fx + i - before, 0, wide - 1)) * 4, share = wx[i]! * wy[j]!;
          red += share * from[at]!; green += share * from[at + 1]!; blue += share * from[at + 2]!;
        }
      }
      out[to] = red; out[to + 1] = green; out[to + 2] = blue;
    }
  }
  return { data: out, width, height };
}

/** Sample a plane bilinearly; outside of it is 0, or its border repeated. */
export function warpPlane(
  plane: Plane, back: Matrix, width: number, height: number, outside: "zero" | "border",
): Plane {
  const { data: from, width: wide, height: high } = plane;
  const out = new Float32Array(width * height);
  const at = outside === "border"
    ? (x: number, y: number) => from[clamp(y, 0, high - 1) * wide + clamp(x, 0, wide - 1)]!
    : (x: number, y: number) => (x < 0 || y < 0 || x >= wide || y >= high ? 0 : from[y * wide + x]!);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to++) {
      const sx = back[0] * x + back[1] * y + back[2], sy = back[3] * x + back[4] * y + back[5];
      const fx = Math.floor(sx), fy = Math.floor(sy), tx = sx - fx, ty = sy - fy;
      if (fx >= 0 && fy >= 0 && fx < wide - 1 && fy < high - 1) {
        const place = fy * wide + fx;
        out[to] = (1 - ty) * ((1 - tx) * from[place]! + tx * from[place + 1]!) +
          ty * ((1 - tx) * from[place + wide]! + tx * from[place + wide + 1]!);
      } else if (outside === "border" || (fx >= -1 && fy >= -1 && fx < wide && fy < high)) {
        out[to] = (1 - ty) * ((1 - tx) * at(fx, fy) + tx * at(fx + 1, fy)) +
          ty * ((1 - tx) * at(fx, fy + 1) + tx * at(fx + 1, fy + 1));
      }
    }
  }
  return { data: out, width, height };
}

/** Gaussian blur, the border mirrored without its last pixel. */
export function blur(plane: Plane, sigma: number): Plane {
  const reach = Math.floor((round(sigma * 8 + 1) | 1) / 2);
  const shares = Float32Array.from({ length: 2 * reach + 1 }, (_, n) =>
    Math.exp(-((n - reach) ** 2) / (2 * sigma * sigma)));
  const sum = shares.reduce((total, share) => total + share, 0);
  const { width, height } = plane;
  const pass = (from: Float32Array, length: number, lines: number, step: number, line: number) => {
    const out = new Float32Array(from.length);
    for (let n = 0; n < lines; n++) {
      for (let k = 0; k < length; k++) {
        let total = 0;
        for (let m = -reach; m <= reach; m++) {
          let place = Math.abs(k + m);
          if (place >= length) place = Math.max(0, 2 * (length - 1) - place);
          total += shares[m + reach]! * from[n * line + place * step]!;
        }
        out[n * line + k * step] = total / sum;
      }
    }
    return out;
  };
  const rows = pass(plane.data, width, height, 1, width);
  return { data: pass(rows, height, width, width, 1), width, height };
}

/** A picture after `blur`, each colour by itself. */
export function blurred({ data, width, height }: Picture, sigma: number): Picture {
  const out = new Uint8ClampedArray(data.length).fill(255);
  for (let colour = 0; colour < 3; colour++) {
    const plane = Float32Array.from({ length: width * height }, (_, n) => data[4 * n + colour]!);
    blur({ data: plane, width, height }, sigma).data.forEach((value, n) => {
      out[4 * n + colour] = value;
    });
  }
  return { data: out, width, height };
}
