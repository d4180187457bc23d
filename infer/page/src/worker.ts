/** The worker: everything that takes time is done here, so that the page stays alive. */
import { load, plan, type Networks } from "./engine";
import { FaceFrame } from "./frame";
import { Segmenter, type Segmented } from "./segment";
import type { Constants, Picture, Reply, Request, Times } from "./types";

const scope = self as unknown as DedicatedWorkerGlobalScope;
const say = (reply: Reply, moved: Transferable[] = []) => scope.postMessage(reply, moved);

let segmenter: Promise<Segmenter> | undefined;
/** The page may ask for a file of a frame while the next one is on its way: two are kept. */
let kept: { id: number; photo: Picture; segmented: Segmented }[] = [];
let table: Constants;

scope.onmessage = async ({ data }: MessageEvent<Request>) => {
  try {
    await answer(data);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    say({ kind: "failed", id: "id" in data ? data.id : 0, message });
  }
};

async function answer(request: Request): Promise<void> {
  if (request.kind === "start") {
    table = request.constants;
    segmenter = start(request);
    await segmenter.catch(() => (segmenter = undefined));
    await segmenter;
  } else if (request.kind === "export") {
    say({ kind: "file", id: request.id, blob: await draw(request.of, request.what) });
  } else {
    await segment(request);
  }
}

async function start(
  { base, sizes }: Extract<Request, { kind: "start" }>,
): Promise<Segmenter> {
  const { gpu, files } = await plan();
  const total = files.reduce((sum, name) => sum + (sizes[name] ?? 0), 0);
  let loaded = 0;
  const get = async (name: string): Promise<Uint8Array> => {
    const answer = await fetch(base + name);
    if (!answer.ok || !answer.body) throw new Error(`${name} could not be loaded (${answer.status})`);
    const data = new Uint8Array(sizes[name]!);
    let at = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      data.set(value, at);
      at += value.length;
      say({ kind: "progress", loaded: (loaded += value.length), total });
    }
    return data;
  };
  const networks: Networks = await load(base, gpu, get, () => canary(base));
  say({ kind: "ready", engine: networks.engine });
  return new Segmenter(networks, table);
}

/** The eyes of the drawn face, roughly framed. */
async function canary(base: string): Promise<Picture> {
  const photo = pixels(await createImageBitmap(await (await fetch(`${base}face.jpg`)).blob()));
  const { width, height } = photo;
  const at = (x: number, y: number): [number, number] => [x * width, y * height];
  return FaceFrame.ofFace(
    [at(0.38, 0.5), at(0.62, 0.5), at(0.5, 0.6), at(0.4, 0.72), at(0.6, 0.72)], table,
  ).sample(photo);
}

async function segment(
  request: Extract<Request, { kind: "photo" | "frame" }>,
): Promise<void> {
  const times: Times = { read: 0, find: 0, cut: 0, network: 0, back: 0 };
  let before = performance.now();
  const live = request.kind === "frame";
  const bitmap = live ? request.bitmap : await decode(request.file);
  const photo = pixels(bitmap);
  times.read = performance.now() - before;
  const ready = await segmenter;
  if (!ready) throw new Error("The networks are not loaded");
  if (live && request.first) ready.startCamera();
  const segmented = await ready.segment(photo, live ? "camera" : request.name, live, times);
  kept = [...(live ? kept.slice(-1) : []), { id: request.id, photo, segmented }];
  const { parts: _, ...result } = segmented;
  say(
    { kind: "result", id: request.id, result, bitmap },
    [bitmap, ...result.patches.map((patch) => patch.data.buffer as ArrayBuffer)],
  );
}

/** Decode as Python does: turned by EXIF, colours as stored. */
async function decode(file: Blob): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("This file cannot be read as a picture. Give a JPEG, PNG, WebP or AVIF.");
  }
}

/** The pixels of a picture, laid over white where it is transparent. */
function pixels(bitmap: ImageBitmap): Picture {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error(`A picture of ${width} x ${height} is too large for this browser.`);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** A result as a PNG at the photo's own size. */
async function draw(id: number, what: "mask" | "cutout"): Promise<Blob> {
  const found = kept.find((one) => one.id === id);
  if (!found) throw new Error("There is nothing to save yet");
  const { photo, segmented } = found, { width, height } = photo;
  const { network: { threshold }, eyes: { edge } } = table;
  const picture = new ImageData(width, height), out = picture.data;
  if (what === "mask") for (let n = 3; n < out.length; n += 4) out[n] = 255;
  for (const { plane, x: left, y: top } of segmented.parts) {
    for (let y = 0, at = 0; y < plane.height; y++) {
      for (let x = 0, to = ((top + y) * width + left) * 4; x < plane.width; x++, at++, to += 4) {
        const value = plane.data[at]!;
        if (what === "mask") {
          if (value >= threshold) out[to] = out[to + 1] = out[to + 2] = 255;
        } else if (value > threshold - edge) {
          out[to + 3] = Math.max(out[to + 3]!, 255 * (0.5 + (value - threshold) / (2 * edge)));
          for (let c = 0; c < 3; c++) out[to + c] = photo.data[to + c]!;
        }
      }
    }
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")!.putImageData(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
