/** A photo in, faces and eyes out: the rules of infer/predictor.py. */
import type { Networks } from "./engine";
import { measureEyes } from "./eyes";
import { FaceFinder } from "./find";
import { Follower } from "./follow";
import { FaceFrame, PhotoFrame, type Frame, type Restored } from "./frame";
import { patchOf, shapesOf } from "./shapes";
import type { Constants, Eye, Face, FoundFace, Picture, Record, Result, Times } from "./types";

export interface Segmented extends Result { parts: Restored[] }

export class Segmenter {
  private readonly finder: FaceFinder;
  private follower: Follower;

  constructor(private readonly networks: Networks, private readonly constants: Constants) {
    this.finder = new FaceFinder(networks.find, constants);
    this.follower = new Follower(this.finder, constants);
  }

  /** Forget the faces of the camera. */
  startCamera(): void {
    this.follower = new Follower(this.finder, this.constants);
  }

  async segment(photo: Picture, name: string, live: boolean, times: Times): Promise<Segmented> {
    const { constants } = this;
    const clock = stopwatch(times);
    const found = (live ? await this.follower.find(photo, performance.now() / 1000) : await this.finder.find(photo))
      .sort((a, b) => b.box[2] * b.box[3] - a.box[2] * a.box[3]);
    clock("find");
    const large = found.filter((face) => distance(face) >= constants.frame.leastEyeDistance);
    const frames: Frame[] = found.length
      ? large.map((face) => FaceFrame.ofFace(face.landmarks, constants))
      : live ? [] : [new PhotoFrame(photo, constants)];
    const pictures = frames.map((frame) => frame.sample(photo));
    clock("cut");
    let planes = pictures.length ? await this.networks.segment(pictures) : [];
    clock("network");
    if (live) planes = this.follower.blend(large, planes);
    const parts = frames.map((frame, n) => frame.restore(planes[n]!, photo));
    const eyes = frames.map((frame, n) => measureEyes(parts[n]!, frame, constants));
    const record: Record = {
      schema: constants.schema, photo: name, width: photo.width, height: photo.height,
      threshold: constants.network.threshold, warning: "", faces: [],
    };
    if (found.length) {
      record.faces = found.map((face) => {
        const place = large.indexOf(face);
        const problem = constants.texts.tooSmall.replace("{:.0f}", distance(face).toFixed(0));
        return place < 0 ? faceOf(face, [], problem) : faceOf(face, eyes[place]!, "");
      });
    } else if (live || !looksLikeOneFace(eyes[0]!, photo, constants)) {
      record.warning = constants.texts.noFace;
    } else {
      const box: Face["box"] = [0, 0, photo.width, photo.height];
      record.faces = [{ box, landmarks: [], score: null, eyes: eyes[0]!, problem: "" }];
    }
    const kept = record.warning ? [] : parts;
    const seen = record.faces.flatMap((face, n) => (face.problem ? [] : [n]));
    const shapes = kept.flatMap((part, n) => shapesOf(
      photo, part, frames[n]!.matrix, record.faces[seen[n]!]!.eyes, seen[n]!, constants));
    const patches = kept.flatMap((part) => patchOf(part, constants) ?? []);
    clock("back");
    return { record, shapes, patches, times, parts: kept };
  }
}

/** Writes the milliseconds since the last call. */
function stopwatch(times: Times): (step: keyof Times) => void {
  let before = performance.now();
  return (step) => {
    const now = performance.now();
    times[step] = now - before;
    before = now;
  };
}

function faceOf(found: FoundFace, eyes: Eye[], problem: string): Face {
  return { box: found.box, landmarks: found.landmarks, score: found.score, eyes, problem };
}

function distance({ landmarks: [a, b] }: FoundFace): number {
  return Math.hypot(b![0] - a![0], b![1] - a![1]);
}

/** Whether these are like the eyes of a cropped face: two, alike, side by side. */
function looksLikeOneFace(eyes: Eye[], photo: Picture, { oneFace: rule }: Constants): boolean {
  if (eyes.length !== 2) return false;
  const [left, right] = [...eyes].sort((a, b) => a.centre[0] - b.centre[0]) as [Eye, Eye];
  const side = Math.max(photo.width, photo.height);
  const across = right.centre[0] - left.centre[0], down = right.centre[1] - left.centre[1];
  const middle = (right.centre[0] + left.centre[0]) / 2 / photo.width;
  return Math.min(left.area, right.area) > rule.alike * Math.max(left.area, right.area) &&
    rule.apart[0] * side < across && across < rule.apart[1] * side &&
    Math.abs(down) < rule.slope * across &&
    rule.amid[0] < middle && middle < rule.amid[1] &&
    rule.gap * Math.max(left.box[2], right.box[2]) < across &&
    eyes.every((eye) => eye.area > rule.filled * eye.box[2] * eye.box[3]);
}
