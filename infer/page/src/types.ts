/** The table that Python writes (infer/page_data.py): every number that both languages share. */
export interface Constants {
  schema: string;
  network: { size: number; stride: number; threshold: number };
  finder: {
    stride: number; multiple: number; looks: number[]; nearly: number; same: number;
    inside: number; face: number; perhaps: number; turned: number; clear: number;
  };
  frame: {
    across: number; down: number; below: number; wide: number; high: number; middle: number;
    likely: number; room: number; eye: number; sharp: number; tiny: number; soft: number;
    leastEyeDistance: number;
  };
  eyes: { closed: number; telling: number; leastShare: number; edge: number };
  oneFace: {
    alike: number; apart: [number, number]; slope: number; amid: [number, number]; gap: number;
    filled: number;
  };
  follow: { followed: number; anew: number; reach: number; gone: number; smooth: number };
  texts: { noFace: string; tooSmall: string };
}

export type Point = [number, number];
/** x and y of the corner, width, height. */
export type Box = [number, number, number, number];
export type Side = "right" | "left";

/** RGBA, as a canvas has it. */
export interface Picture { data: Uint8ClampedArray; width: number; height: number }

/** One number a pixel. */
export interface Plane { data: Float32Array; width: number; height: number }

/** x' = m[0] x + m[1] y + m[2], y' = m[3] x + m[4] y + m[5]. */
export type Matrix = [number, number, number, number, number, number];

export interface FoundFace { box: Box; landmarks: Point[]; score: number }

/** As in docs/json.md. */
export interface Eye {
  side: Side; box: Box; centre: Point; area: number; contour: Point[];
  openness: number; probability: number;
}
export interface Face {
  box: Box; landmarks: Point[]; score: number | null; eyes: Eye[]; problem: string;
}
export interface Record {
  schema: string; photo: string; width: number; height: number; threshold: number;
  warning: string; faces: Face[];
}

/** What the effects draw with, beside an `Eye`. */
export interface Shape {
  side: Side;
  face: number;
  /** The curve at the threshold, closed, finer than a pixel: x, y, x, y ... */
  outline: Float32Array[];
  /** Along the upper lid, from the viewer's left to right. */
  lid: Point[];
  iris: { centre: Point; radius: number };
}

/** A part of the photo, opaque where an eye is, with soft edges: RGBA, white. */
export interface Patch { x: number; y: number; width: number; height: number; data: Uint8ClampedArray }

export type Step = "read" | "find" | "cut" | "network" | "back";
export type Times = { [step in Step]: number };

export interface Result {
  record: Record; shapes: Shape[]; patches: Patch[]; times: Times;
}

export interface Engine { backend: "WebGPU" | "WebAssembly"; threads: number; note: string }

export type Request =
  | { kind: "start"; base: string; constants: Constants; sizes: { [file: string]: number } }
  | { kind: "photo"; id: number; file: Blob; name: string }
  | { kind: "frame"; id: number; bitmap: ImageBitmap; first: boolean }
  | { kind: "export"; id: number; of: number; what: "mask" | "cutout" };

export type Reply =
  | { kind: "progress"; loaded: number; total: number }
  | { kind: "ready"; engine: Engine }
  | { kind: "result"; id: number; result: Result; bitmap: ImageBitmap }
  | { kind: "file"; id: number; blob: Blob }
  | { kind: "failed"; id: number; message: string };
