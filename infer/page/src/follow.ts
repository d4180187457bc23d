/** Faces through the camera's frames: the rules of infer/follow.py. */
import { overlap, type FaceFinder } from "./find";
import { clamp } from "./raster";
import type { Constants, FoundFace, Picture, Plane, Point } from "./types";

/** Of the videos whose frames `smooth` is meant for: a slower camera forgets more in a frame. */
const RATE = 30;

export class Follower {
  private faces: FoundFace[] = [];
  private seen: { face: FoundFace; plane: Plane }[] = [];
  private frames = 0;
  private before = 0;
  private smooth = 0;

  constructor(private readonly finder: FaceFinder, private readonly constants: Constants) {}

  /** Find the faces of the next frame: everywhere now and then, else where they were. */
  async find(frame: Picture, seconds: number): Promise<FoundFace[]> {
    this.smooth = this.constants.follow.smooth ** Math.max(1, (seconds - this.before) * RATE);
    this.before = seconds;
    const anew = this.frames++ % this.constants.follow.anew === 0;
    const near = [];
    if (!anew) for (const face of this.faces) near.push(await this.near(frame, face));
    let faces = near.filter((face) => face !== null);
    if (!faces.length || faces.length < near.length) faces = await this.finder.find(frame);
    const steady = faces.map((face) => {
      const place = this.match(face, this.faces);
      if (place < 0) return face;
      const before = this.faces[place]!, share = this.share(face, before);
      const landmarks = face.landmarks.map(([x, y], n): Point => [
        share * before.landmarks[n]![0] + (1 - share) * x,
        share * before.landmarks[n]![1] + (1 - share) * y]);
      return { ...face, landmarks };
    });
    this.faces = steady;
    return steady;
  }

  /** Average a frame's planes with those of the frame before. */
  blend(faces: FoundFace[], planes: Plane[]): Plane[] {
    const blended = faces.map((face, n) => {
      const plane = planes[n]!;
      const place = this.match(face, this.seen.map((one) => one.face));
      if (place < 0) return plane;
      const before = this.seen[place]!, share = this.share(face, before.face);
      if (before.plane.data.length !== plane.data.length) return plane;
      const data = plane.data.map((v, k) => share * before.plane.data[k]! + (1 - share) * v);
      return { ...plane, data };
    });
    this.seen = faces.map((face, n) => ({ face, plane: blended[n]! }));
    return blended;
  }

  private async near(frame: Picture, face: FoundFace): Promise<FoundFace | null> {
    const [x, y, width, height] = face.box;
    const reach = this.constants.follow.reach * Math.max(width, height);
    const left = Math.max(0, Math.trunc(x + width / 2 - reach));
    const top = Math.max(0, Math.trunc(y + height / 2 - reach));
    const right = Math.min(frame.width, Math.trunc(x + width / 2 + reach) + 1);
    const bottom = Math.min(frame.height, Math.trunc(y + height / 2 + reach) + 1);
    if (right <= left || bottom <= top) return null;
    const found = (await this.finder.find(crop(frame, left, top, right - left, bottom - top)))
      .map((other): FoundFace => ({
        ...other,
        box: [other.box[0] + left, other.box[1] + top, other.box[2], other.box[3]],
        landmarks: other.landmarks.map(([a, b]): Point => [a + left, b + top]),
      }));
    return found[this.match(face, found)] ?? null;
  }

  private match(face: FoundFace, others: FoundFace[]): number {
    const shares = others.map((o) => overlap(face.box, o.box, this.constants.finder.inside));
    const best = Math.max(...shares);
    return best > this.constants.follow.followed ? shares.lastIndexOf(best) : -1;
  }

  /** The past's share: less for a face that moved. */
  private share(face: FoundFace, before: FoundFace): number {
    const { gone } = this.constants.follow;
    const [a, b] = face.landmarks as [Point, Point];
    const moved = face.landmarks.reduce((sum, [x, y], n) =>
      sum + Math.abs(x - before.landmarks[n]![0]) + Math.abs(y - before.landmarks[n]![1]), 0) / 10;
    const eyes = Math.hypot(b[0] - a[0], b[1] - a[1]);
    return this.smooth * clamp(1 - moved / Math.max(gone * eyes, 1e-6), 0, 1);
  }
}

function crop(photo: Picture, left: number, top: number, width: number, height: number): Picture {
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * photo.width + left) * 4;
    data.set(photo.data.subarray(start, start + width * 4), y * width * 4);
  }
  return { data, width, height };
}
