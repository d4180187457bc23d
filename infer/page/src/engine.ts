/** ONNX Runtime Web: WebGPU if it answers as WebAssembly does, else WebAssembly. */
import type * as Ort from "onnxruntime-web";
import type { RunFinder } from "./find";
import type { Engine, Picture, Plane } from "./types";

export type RunNetwork = (pictures: Picture[]) => Promise<Plane[]>;
export interface Networks { engine: Engine; find: RunFinder; segment: RunNetwork }
export type Fetch = (name: string) => Promise<Uint8Array>;

type Runtime = typeof Ort;
const PLAIN = "ort-wasm-simd-threaded", GPU = "ort-wasm-simd-threaded.asyncify";
const MOST_THREADS = 4, SAME = 0.02; // of the probability, on the canary

/** What has to be fetched. */
export async function plan(): Promise<{ gpu: boolean; files: string[] }> {
  const gpu = await hasGpu();
  return { gpu, files: [`${gpu ? GPU : PLAIN}.wasm`, "eyes.onnx", "centerface.onnx"] };
}

async function hasGpu(): Promise<boolean> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<{ info?: { isFallbackAdapter?: boolean } } | null> } }).gpu;
  const adapter = await gpu?.requestAdapter().catch(() => null);
  return !!adapter && !adapter.info?.isFallbackAdapter;
}

/** Load the runtime and both networks. `canary` is a picture with eyes in it. */
export async function load(
  base: string, gpu: boolean, get: Fetch, canary: () => Promise<Picture>,
): Promise<Networks> {
  const ort: Runtime = gpu
    ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const name = gpu ? GPU : PLAIN;
  const threads = globalThis.crossOriginIsolated
    ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { mjs: `${base}${name}.mjs`, wasm: `${base}${name}.wasm` };
  ort.env.logLevel = "error";
  const files = [`${name}.wasm`, "eyes.onnx", "centerface.onnx"] as const;
  const [binary, eyes, finder] = await Promise.all(files.map(get)) as [
    Uint8Array, Uint8Array, Uint8Array];
  ort.env.wasm.wasmBinary = binary;
  const open = (data: Uint8Array, provider: "wasm" | "webgpu") =>
    ort.InferenceSession.create(data, { executionProviders: [provider], logSeverityLevel: 3 });

  const plain = await open(eyes, "wasm");
  let engine: Engine = { backend: "WebAssembly", threads, note: "" };
  if (gpu) {
    try {
      const fast = await open(eyes, "webgpu");
      const picture = await canary();
      const [[one], [other]] = [
        await segmenter(ort, plain)([picture]), await segmenter(ort, fast)([picture])];
      if (alike(one!, other!)) {
        await plain.release();
        engine = { backend: "WebGPU", threads, note: "" };
        return {
          engine, find: finderOf(ort, await open(finder, "webgpu")), segment: segmenter(ort, fast),
        };
      }
      await fast.release();
      engine.note = "WebGPU answered otherwise than WebAssembly, so it is not used.";
    } catch (error) { // the driver's or the browser's refusal: WebAssembly can do it
      engine.note = `WebGPU could not be used (${error instanceof Error ? error.message : error}).`;
    }
  }
  return { engine, find: finderOf(ort, await open(finder, "wasm")), segment: segmenter(ort, plain) };
}

/** Whether two answers are one; a plane without anything in it proves nothing. */
function alike(one: Plane, other: Plane): boolean {
  let [largest, apart] = [0, 0];
  for (let n = 0; n < one.data.length; n++) {
    largest = Math.max(largest, one.data[n]!);
    apart = Math.max(apart, Math.abs(one.data[n]! - other.data[n]!));
  }
  return largest > 0.5 && apart < SAME;
}

function segmenter(ort: Runtime, session: Ort.InferenceSession): RunNetwork {
  return async (pictures) => {
    const { width, height } = pictures[0]!;
    const input = new Uint8Array(pictures.length * width * height * 3);
    pictures.forEach(({ data }, n) => {
      for (let at = 0, to = n * width * height * 3; at < data.length; at += 4) {
        input[to++] = data[at]!; input[to++] = data[at + 1]!; input[to++] = data[at + 2]!;
      }
    });
    const images = new ort.Tensor("uint8", input, [pictures.length, height, width, 3]);
    const { probability } = await session.run({ images });
    const all = (await probability!.getData()) as Float32Array;
    probability!.dispose();
    return pictures.map((_, n) => ({
      data: all.slice(n * width * height, (n + 1) * width * height), width, height,
    }));
  };
}

function finderOf(ort: Runtime, session: Ort.InferenceSession): RunFinder {
  return async (blob, width, height) => {
    const input = new ort.Tensor("float32", blob, [1, 3, height, width]);
    const out = await session.run({ [session.inputNames[0]!]: input });
    const tensors = session.outputNames.map((name) => out[name]!);
    const [heat, size, offset, landmarks] = await Promise.all(
      tensors.map(async (tensor) => Float32Array.from((await tensor.getData()) as Float32Array)));
    const [, , high, wide] = tensors[0]!.dims;
    tensors.forEach((tensor) => tensor.dispose());
    return {
      heat: heat!, size: size!, offset: offset!, landmarks: landmarks!, width: wide!, height: high!,
    };
  };
}
