/** What is drawn over and around the eyes. */
import type { Patch, Point, Shape } from "./types";

export type Rest = "none" | "blur" | "grey" | "gone";
export interface Effects {
  outline: boolean; iris: boolean; glow: boolean; sparkle: boolean; rest: Rest; colour: string;
}

/** A photo and what was found in it. */
export interface Scene { photo: ImageBitmap; shapes: Shape[]; patches: Patch[] }
/** A part of a photo, in its pixels. */
export interface View { x: number; y: number; width: number; height: number }

const SOFT = 24; // how many times smaller "blurred" is drawn, of a thousand pixels

/** Draws frames on a canvas; keeps what it needs from one to the next. */
export class Painter {
  private readonly context: CanvasRenderingContext2D;
  private readonly small = document.createElement("canvas");
  private readonly eyes = document.createElement("canvas");
  private readonly part = document.createElement("canvas");

  constructor(readonly canvas: HTMLCanvasElement) {
    this.context = canvas.getContext("2d")!;
  }

  /** Draw a part of a photo, `scale` canvas pixels for one of its own. */
  draw(scene: Scene, view: View, scale: number, effects: Effects, seconds: number): void {
    const { canvas, context } = this;
    const width = Math.max(1, Math.round(view.width * scale));
    const height = Math.max(1, Math.round(view.height * scale));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalCompositeOperation = "source-over";
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, width, height);
    const rest = scene.patches.length ? effects.rest : "none";
    if (rest === "blur") this.blurred(scene, view);
    else if (rest !== "gone") place(context, scene.photo, view, width, height);
    if (rest === "grey") this.withoutColour();
    if (rest !== "none") context.drawImage(this.cut(scene, view, scale), 0, 0);
    context.setTransform(scale, 0, 0, scale, -view.x * scale, -view.y * scale);
    for (const shape of scene.shapes) {
      if (effects.iris) this.iris(shape, effects.colour);
      if (effects.glow) this.glow(shape, effects.colour);
      if (effects.outline) this.outline(shape, effects.colour, scale);
      if (effects.sparkle) this.sparkle(shape, seconds);
    }
  }

  /** Drawn small, then large: works in every browser, and is quick. */
  private blurred({ photo }: Scene, view: View): void {
    const { canvas: { width, height }, context, small } = this;
    const by = Math.max(1, (SOFT * Math.max(width, height)) / 1000);
    [small.width, small.height] = [Math.ceil(width / by), Math.ceil(height / by)];
    const tiny = small.getContext("2d")!;
    tiny.imageSmoothingQuality = "high";
    place(tiny, photo, view, small.width, small.height);
    context.drawImage(small, 0, 0, width, height);
  }

  private withoutColour(): void {
    const { canvas: { width, height }, context } = this;
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#808080";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "source-over";
  }

  /** The eyes alone, soft at the edges. */
  private cut({ photo, patches }: Scene, view: View, scale: number): HTMLCanvasElement {
    const { eyes, part, canvas: { width, height } } = this;
    [eyes.width, eyes.height] = [width, height];
    const context = eyes.getContext("2d")!;
    for (const { x, y, width: wide, height: high, data } of patches) {
      [part.width, part.height] = [wide, high];
      part.getContext("2d")!.putImageData(new ImageData(data as ImageDataArray, wide, high), 0, 0);
      context.drawImage(
        part, (x - view.x) * scale, (y - view.y) * scale, wide * scale, high * scale);
    }
    context.globalCompositeOperation = "source-in";
    place(context, photo, view, width, height);
    return eyes;
  }

  private path(shape: Shape): Path2D {
    const path = new Path2D();
    for (const curve of shape.outline) {
      for (let n = 0; n < curve.length; n += 2) path.lineTo(curve[n]!, curve[n + 1]!);
      path.closePath();
    }
    return path;
  }

  private outline(shape: Shape, colour: string, scale: number): void {
    const { context } = this, path = this.path(shape);
    context.save();
    context.lineJoin = "round";
    context.lineWidth = 4 / scale;
    context.strokeStyle = "rgb(0 0 0 / 35%)";
    context.stroke(path);
    context.lineWidth = 2 / scale;
    context.strokeStyle = colour;
    context.stroke(path);
    context.restore();
  }

  private iris(shape: Shape, colour: string): void {
    const { context } = this, { centre: [x, y], radius } = shape.iris;
    context.save();
    context.clip(this.path(shape));
    const fade = context.createRadialGradient(x, y, radius * 0.34, x, y, radius);
    fade.addColorStop(0, "transparent");
    fade.addColorStop(0.15, colour);
    fade.addColorStop(0.8, colour);
    fade.addColorStop(1, "transparent");
    context.fillStyle = fade;
    for (const [mode, share] of [["color", 0.9], ["overlay", 0.55], ["soft-light", 0.6]] as const) {
      context.globalCompositeOperation = mode;
      context.globalAlpha = share;
      context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    }
    context.restore();
  }

  private glow(shape: Shape, colour: string): void {
    const { context } = this, path = this.path(shape);
    context.save();
    context.globalCompositeOperation = "lighter";
    context.shadowColor = colour;
    context.fillStyle = colour;
    context.globalAlpha = 0.22;
    context.fill(path);
    context.globalAlpha = 0.5;
    for (const reach of [0.4, 1.1, 2.4]) {
      context.shadowBlur = reach * shape.iris.radius * context.getTransform().a;
      context.lineWidth = shape.iris.radius * 0.14;
      context.strokeStyle = colour;
      context.stroke(path);
    }
    context.restore();
  }

  /** Stars that come and go along the upper lid. */
  private sparkle(shape: Shape, seconds: number): void {
    const { context } = this, { lid, iris: { radius } } = shape;
    if (lid.length < 2) return;
    context.save();
    context.globalCompositeOperation = "lighter";
    for (let n = 0; n < 9; n++) {
      const phase = seconds * (0.5 + 0.13 * (n % 4)) + n * 0.37, turn = Math.floor(phase);
      const bright = Math.sin((phase - turn) * Math.PI) ** 2;
      const share = (n + 0.5 + 0.8 * (random(n, turn) - 0.5)) / 9;
      const [x, y] = lid[Math.min(lid.length - 1, Math.floor(share * lid.length))]!;
      star(context, [x, y - radius * 0.3 * random(turn, n)], radius * (0.18 + 0.34 * random(n + 7, turn)) * bright);
    }
    context.restore();
  }
}

function place(
  context: CanvasRenderingContext2D, photo: ImageBitmap, view: View, width: number, height: number,
): void {
  context.drawImage(photo, view.x, view.y, view.width, view.height, 0, 0, width, height);
}

function random(a: number, b: number): number {
  const value = Math.sin(a * 127.1 + b * 311.7) * 43758.5453;
  return value - Math.floor(value);
}

function star(context: CanvasRenderingContext2D, [x, y]: Point, size: number): void {
  if (size <= 0) return;
  const fade = context.createRadialGradient(x, y, 0, x, y, size * 1.6);
  fade.addColorStop(0, "rgb(255 246 214 / 85%)");
  fade.addColorStop(1, "transparent");
  context.fillStyle = fade;
  context.fillRect(x - 2 * size, y - 2 * size, 4 * size, 4 * size);
  context.beginPath();
  for (let n = 0; n < 8; n++) {
    const far = n % 2 ? size * 0.22 : size * 2, angle = (n * Math.PI) / 4;
    context.lineTo(x + far * Math.cos(angle), y + far * Math.sin(angle));
  }
  context.closePath();
  context.fillStyle = "#fffdf4";
  context.fill();
}
