/** The page's side of the worker: one request at a time, answered by a promise. */
import { plan } from "./engine";
import type { Constants, Engine, Reply, Request, Result } from "./types";

declare const SIZES: { [file: string]: number };
declare const PACKED: { [file: string]: number };

/** Where everything but index.html lies. */
export const BASE = new URL("./", import.meta.url).href;

export interface Answer { id: number; result: Result; bitmap: ImageBitmap }
type Unanswered = { done: (reply: Reply) => void; failed: (error: Error) => void };

export class Client {
  engine: Engine | undefined;
  /** Called while networks and runtime are loaded, with a share from 0 to 1. */
  onprogress: (share: number, total: number) => void = () => {};
  private worker: Worker | undefined;
  private starting: Promise<void> | undefined;
  private readonly waiting = new Map<number, Unanswered>();
  private number = 0;

  /** Load what segmenting needs; fetched once, when it is needed first. */
  start(): Promise<void> {
    return (this.starting ??= this.load().catch((error) => {
      this.worker?.terminate();
      this.worker = this.starting = undefined;
      throw error;
    }));
  }

  photo(file: Blob, name: string): Promise<Answer> {
    return this.result({ kind: "photo", id: 0, file, name }, []);
  }

  frame(bitmap: ImageBitmap, first: boolean): Promise<Answer> {
    return this.result({ kind: "frame", id: 0, bitmap, first }, [bitmap]);
  }

  /** A PNG of the answer with this number, one of the last two. */
  async file(what: "mask" | "cutout", of: number): Promise<Blob> {
    const reply = await this.ask({ kind: "export", id: 0, of, what }, []);
    if (reply.kind !== "file") throw new Error(`unexpected ${reply.kind}`);
    return reply.blob;
  }

  private async load(): Promise<void> {
    if (typeof WebAssembly !== "object") {
      throw new Error("This browser has no WebAssembly, which the networks need.");
    }
    await offline();
    const answer = await fetch(`${BASE}constants.json`);
    if (!answer.ok) throw new Error(`constants.json could not be loaded (${answer.status})`);
    const constants = (await answer.json()) as Constants;
    this.worker = new Worker(`${BASE}worker.js`, { type: "module" });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.hear(data);
    this.worker.onerror = (event) => {
      const error = new Error(event.message || "The worker could not be started");
      for (const { failed } of this.waiting.values()) failed(error);
    };
    const reply = await this.send({ kind: "start", base: BASE, constants, sizes: SIZES }, [], 0);
    if (reply.kind === "ready") this.engine = reply.engine;
  }

  private async result(request: Request, moved: Transferable[]): Promise<Answer> {
    const reply = await this.ask(request, moved);
    if (reply.kind !== "result") throw new Error(`unexpected ${reply.kind}`);
    return reply;
  }

  private async ask(request: Request, moved: Transferable[]): Promise<Reply> {
    await this.start();
    return this.send(request, moved, ++this.number);
  }

  private send(request: Request, moved: Transferable[], id: number): Promise<Reply> {
    return new Promise((done, failed) => {
      this.waiting.set(id, { done, failed });
      this.worker!.postMessage({ ...request, id }, moved);
    });
  }

  private hear(reply: Reply): void {
    if (reply.kind === "progress") return this.onprogress(reply.loaded / reply.total, reply.total);
    const id = "id" in reply ? reply.id : 0;
    const asked = this.waiting.get(id);
    this.waiting.delete(id);
    if (reply.kind === "failed") asked?.failed(new Error(reply.message));
    else asked?.done(reply);
  }
}

/** Give the service worker a moment, so that it keeps what is loaded now. */
async function offline(): Promise<void> {
  if (!navigator.serviceWorker) return;
  const patience = new Promise((done) => setTimeout(done, 1500));
  await Promise.race([navigator.serviceWorker.ready, patience]);
}

/** Megabytes of the first use: what a host sends that compresses. */
export async function firstUse(): Promise<number> {
  return (await plan()).files.reduce((sum, name) => sum + (PACKED[name] ?? 0), 0) / 1e6;
}
