/** What the network sees of a photo, and the way back: the rules of infer/frame.py. */
import {
  apply, blur, blurred, clamp, invert, moved, resizeArea, round, shrinkBy, toCentres, warp, warpPlane,
} from "./raster";
import type { Box, Constants, Matrix, Picture, Plane, Point } from "./types";

/** A part of the photo with the probability of its pixels. */
export interface Restored { plane: Plane; x: number; y: number }

export interface Frame {
  /** Pixels of the photo to pixels of the rectangle; (0, 0) is the corner of the corner pixel. */
  matrix: Matrix;
  width: number;
  /** Usual width of an eye, in pixels of the photo; 0 if nothing is known of it. */
  eye: number;
  sample(photo: Picture): Picture;
  restore(plane: Plane, photo: Picture): Restored;
}

const scaled = (m: Matrix, by: number): Matrix => m.map((value) => value * by) as Matrix;

/** A face's eyes, the ways across and down from them, and cosine and sine of its roll. */
export function axesOf(landmarks: Point[]) {
  const [right, left, , one, other] = landmarks as [Point, Point, Point, Point, Point];
  const middle = (a: Point, b: Point): Point => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const eyes = middle(right, left), mouth = middle(one, other);
  const across: Point = [left[0] - right[0], left[1] - right[1]];
  const down: Point = [mouth[0] - eyes[0], mouth[1] - eyes[1]];
  const direction: Point = [across[0] + down[1], across[1] - down[0]];
  const length = Math.max(Math.hypot(...direction), 1e-6);
  return { eyes, across, down, cos: direction[0] / length, sin: direction[1] / length };
}

/** A turned rectangle of a photo, around a face or its eyes. */
export class FaceFrame implements Frame {
  readonly eye: number;
  private readonly scale: number;

  private constructor(
    readonly matrix: Matrix, readonly width: number, readonly height: number,
    private readonly constants: Constants,
  ) {
    const { frame: rule } = constants;
    this.scale = Math.hypot(matrix[0], matrix[1]);
    this.eye = ((rule.eye / rule.wide) * width) / this.scale;
  }

  /** The band around the eyes. */
  static ofFace(landmarks: Point[], constants: Constants): FaceFrame {
    const { frame: rule, network: { size, stride } } = constants;
    const { eyes, across, down, ...axes } = axesOf(landmarks);
    const side = Math.max(
      rule.across * Math.hypot(...across), rule.down * Math.hypot(...down), 1e-6);
    const cos = (size / side) * axes.cos, sin = (size / side) * axes.sin;
    const width = Math.max(1, round((rule.wide * size) / stride)) * stride;
    const height = Math.max(1, round((rule.high * size) / stride)) * stride;
    const centre: Point = [eyes[0] + rule.below * down[0], eyes[1] + rule.below * down[1]];
    return new FaceFrame([
      cos, sin, width / 2 - cos * centre[0] - sin * centre[1],
      -sin, cos, size / 2 + sin * centre[0] - cos * centre[1] - (rule.middle * size - height / 2),
    ], width, height, constants);
  }

  /** The whole face, upright, in a square. */
  static around([x, y, wide, high]: Box, landmarks: Point[], size: number, constants: Constants): FaceFrame {
    const axes = axesOf(landmarks);
    const scale = size / Math.max(constants.frame.room * Math.max(wide, high), 1e-6);
    const cos = scale * axes.cos, sin = scale * axes.sin;
    const centre: Point = [x + wide / 2, y + high / 2];
    return new FaceFrame([
      cos, sin, size / 2 - cos * centre[0] - sin * centre[1],
      -sin, cos, size / 2 + sin * centre[0] - cos * centre[1],
    ], size, size, constants);
  }

  /** Where the box is that `around` made room for. */
  get inner(): Box {
    const side = this.width / this.constants.frame.room;
    return [(this.width - side) / 2, (this.height - side) / 2, side, side];
  }

  sample(photo: Picture): Picture {
    const { width, height, scale } = this;
    const { sharp, tiny, soft } = this.constants.frame;
    if (scale > sharp) {
      const back = invert(toCentres(this.matrix));
      const drawn = warp(photo, back, width, height, scale > 1 ? "cubic" : "linear");
      return this.eye < tiny ? blurred(drawn, soft * scale) : drawn;
    }
    // Shrink by area to between 2x and 4x, turn, and take the area again.
    const times = Math.floor(0.5 / scale);
    let part = photo, matrix = this.matrix;
    if (times > 1) {
      const [x, y, right, bottom] = this.box(photo, 2 + 2 / scale);
      const size = [right - x, bottom - y].map((side) => Math.ceil(side / times));
      part = shrinkBy(photo, times, x, y, size[0]!, size[1]!);
      const [a, b, left, c, d, top] = moved(matrix, x, y);
      matrix = [a * times, b * times, left, c * times, d * times, top];
    }
    const turned = warp(
      part, invert(toCentres(scaled(matrix, 2))), 2 * width, 2 * height, "linear");
    return shrinkBy(turned, 2, 0, 0, width, height);
  }

  restore(plane: Plane, photo: Picture): Restored {
    const [x, y, right, bottom] = this.box(photo, 1);
    const sigma = this.scale > 1 ? 0.5 * Math.sqrt(this.scale ** 2 - 1) : 0;
    const back = toCentres(moved(this.matrix, x, y));
    const smooth = sigma ? blur(plane, sigma) : plane;
    return { plane: warpPlane(smooth, back, right - x, bottom - y, "zero"), x, y };
  }

  /** Left, top, right, bottom in the photo; never empty. */
  private box(photo: Picture, margin: number): [number, number, number, number] {
    const back = invert(this.matrix);
    const ends = [[0, 0], [1, 0], [0, 1], [1, 1]].map(([a, b]) =>
      apply(back, a! * this.width, b! * this.height));
    const [xs, ys] = [ends.map((end) => end[0]), ends.map((end) => end[1])];
    const x = clamp(Math.floor(Math.min(...xs) - margin), 0, photo.width - 1);
    const y = clamp(Math.floor(Math.min(...ys) - margin), 0, photo.height - 1);
    return [
      x, y,
      clamp(Math.ceil(Math.max(...xs) + margin), x + 1, photo.width),
      clamp(Math.ceil(Math.max(...ys) + margin), y + 1, photo.height),
    ];
  }
}

/** The whole photo, fitted into the square that training pictures are packed in. */
export class PhotoFrame implements Frame {
  readonly matrix: Matrix;
  readonly width: number;
  readonly eye = 0;
  private readonly inner: { left: number; top: number; width: number; height: number };

  constructor(photo: Picture, private readonly constants: Constants) {
    const { size } = constants.network;
    const scale = size / Math.max(photo.width, photo.height);
    const width = clamp(round(photo.width * scale), 1, size);
    const height = clamp(round(photo.height * scale), 1, size);
    const left = Math.floor((size - width) / 2), top = Math.floor((size - height) / 2);
    this.inner = { left, top, width, height };
    this.width = size;
    this.matrix = [width / photo.width, 0, left, 0, height / photo.height, top];
  }

  sample(photo: Picture): Picture {
    const { left, top, width, height } = this.inner;
    const shrinks = photo.width >= width && photo.height >= height;
    const fitted = shrinks
      ? resizeArea(photo, width, height)
      : warp(photo, toCentres([photo.width / width, 0, 0, 0, photo.height / height, 0]),
        width, height, "linear");
    return warp(fitted, [1, 0, -left, 0, 1, -top], this.width, this.width, "linear");
  }

  restore(plane: Plane, photo: Picture): Restored {
    const { left, top, width, height } = this.inner;
    let [x0, y0, x1, y1] = [width, height, -1, -1];
    const inner: Plane = { data: new Float32Array(width * height), width, height };
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = plane.data[(y + top) * plane.width + x + left]!;
        inner.data[y * width + x] = value;
        if (value <= this.constants.frame.likely) continue;
        [x0, y0, x1, y1] = [Math.min(x0, x), Math.min(y0, y), Math.max(x1, x), Math.max(y1, y)];
      }
    }
    if (x1 < 0) return { plane: { data: new Float32Array(1), width: 1, height: 1 }, x: 0, y: 0 };
    const across = photo.width / width, down = photo.height / height;
    const x = Math.max(0, Math.trunc(across * (x0 - 1)));
    const y = Math.max(0, Math.trunc(down * (y0 - 1)));
    const right = Math.min(photo.width, Math.trunc(across * (x1 + 2)) + 1);
    const bottom = Math.min(photo.height, Math.trunc(down * (y1 + 2)) + 1);
    const map = toCentres([1 / across, 0, x / across, 0, 1 / down, y / down]);
    return { plane: warpPlane(inner, map, right - x, bottom - y, "border"), x, y };
  }
}
