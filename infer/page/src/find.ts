/** Faces by CenterFace: the rules of infer/faces.py. */
import { axesOf, FaceFrame } from "./frame";
import { apply, invert, resizeArea, round, shrinkBy } from "./raster";
import type { Box, Constants, FoundFace, Picture, Point } from "./types";

/** Runs the network: 3 x height x width in; heat, size, offset, landmarks out, a plane after the other. */
export type RunFinder = (blob: Float32Array, width: number, height: number) => Promise<{
  heat: Float32Array; size: Float32Array; offset: Float32Array; landmarks: Float32Array;
  width: number; height: number;
}>;

export class FaceFinder {
  constructor(private readonly run: RunFinder, private readonly constants: Constants) {}

  /** The faces of a photo, the best first. */
  async find(photo: Picture): Promise<FoundFace[]> {
    const rule = this.constants.finder;
    const longest = Math.max(photo.width, photo.height);
    const seen: FoundFace[] = [];
    let before = 0;
    let faces: FoundFace[] = [];
    for (const side of rule.looks) {
      const now = Math.min(side, longest);
      if (now <= rule.nearly * before) break;
      before = now;
      seen.push(...(await this.look(photo, before / longest)));
      const found = this.withoutRepetitions(seen);
      faces = found.filter((face) => face.score > rule.face);
      const smallest = Math.min(...found.map((face) => Math.max(face.box[2], face.box[3])));
      if (faces.length && (smallest * before) / longest > rule.clear) break;
    }
    const upright = [];
    for (const face of faces) upright.push(await this.upright(photo, face));
    return upright;
  }

  /** Look at a turned face again, upright, for better landmarks. */
  private async upright(photo: Picture, face: FoundFace): Promise<FoundFace> {
    const { turned, looks, inside, same } = this.constants.finder;
    if (axesOf(face.landmarks).cos > turned) return face;
    const frame = FaceFrame.around(face.box, face.landmarks, looks[0]!, this.constants);
    const again = (await this.look(frame.sample(photo), 1))
      .filter((other) => overlap(other.box, frame.inner, inside) > same)
      .sort((a, b) => b.score - a.score)[0];
    if (!again) return face;
    const back = invert(frame.matrix);
    const landmarks = again.landmarks.map(([x, y]) => apply(back, x, y));
    return { box: face.box, landmarks, score: Math.max(face.score, again.score) };
  }

  private async look(photo: Picture, scale: number): Promise<FoundFace[]> {
    const rule = this.constants.finder;
    const width = Math.max(1, round(photo.width * scale));
    const height = Math.max(1, round(photo.height * scale));
    const back: Point = [photo.width / width, photo.height / height];
    const times = Math.min(Math.trunc(1 / scale), photo.width, photo.height);
    const coarse = times > 1
      ? shrinkBy(photo, times, 0, 0, Math.floor(photo.width / times), Math.floor(photo.height / times))
      : photo;
    const small = resizeArea(coarse, width, height);
    const wide = Math.ceil(width / rule.multiple) * rule.multiple;
    const high = Math.ceil(height / rule.multiple) * rule.multiple;
    const blob = new Float32Array(3 * wide * high);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0, to = y * wide; x < width; x++, to++, at += 4) {
        for (let c = 0; c < 3; c++) blob[c * wide * high + to] = small.data[at + c]!;
      }
    }
    const out = await this.run(blob, wide, high);
    const found: FoundFace[] = [], area = out.width * out.height;
    for (let n = 0; n < area; n++) {
      const score = out.heat[n]!;
      if (score <= rule.perhaps) continue;
      const x = n % out.width, y = Math.floor(n / out.width);
      const boxHigh = Math.exp(out.size[n]!) * rule.stride;
      const boxWide = Math.exp(out.size[area + n]!) * rule.stride;
      const top = (y + out.offset[n]! + 0.5) * rule.stride - boxHigh / 2;
      const left = (x + out.offset[area + n]! + 0.5) * rule.stride - boxWide / 2;
      const landmarks = Array.from({ length: 5 }, (_, k): Point => [ // y, x in shares of the box
        (out.landmarks[(2 * k + 1) * area + n]! * boxWide + left) * back[0],
        (out.landmarks[2 * k * area + n]! * boxHigh + top) * back[1],
      ]);
      const box: Box = [left * back[0], top * back[1], boxWide * back[0], boxHigh * back[1]];
      found.push({ box, landmarks, score });
    }
    return found;
  }

  /** Keep the best of faces that overlap, best first. */
  private withoutRepetitions(faces: FoundFace[]): FoundFace[] {
    const { same, inside } = this.constants.finder;
    const kept: FoundFace[] = [];
    for (const face of [...faces].sort((a, b) => b.score - a.score)) {
      if (kept.every((other) => overlap(face.box, other.box, inside) < same)) kept.push(face);
    }
    return kept;
  }
}

/** Intersection over union; of a box inside another, `inside` times its covered share if larger. */
export function overlap(one: Box, other: Box, inside: number): number {
  const both = [0, 1].reduce((area, axis) => {
    const low = Math.max(one[axis]!, other[axis]!);
    const high = Math.min(one[axis]! + one[axis + 2]!, other[axis]! + other[axis + 2]!);
    return area * Math.max(high - low, 0);
  }, 1);
  const areas = [one[2] * one[3], other[2] * other[3]] as const;
  return Math.max(
    both / Math.max(areas[0] + areas[1] - both, 1e-6),
    (inside * both) / Math.max(Math.min(...areas), 1e-6));
}
