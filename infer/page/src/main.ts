/** The page: what its buttons do. */
import { Openness, type Lids } from "./blinks";
import { Camera } from "./camera";
import { BASE, Client, firstUse, type Answer } from "./client";
import { Painter, type Effects, type Rest, type Scene } from "./effects";
import { download, jsonFile } from "./files";
import { CloseUps, find, followPointer, gauge, showTimes } from "./panel";
import type { Point, Result, Side } from "./types";

const COLOURS = ["#3be0c5", "#ffb13b", "#ff5d73", "#b28dff", "#4aa8ff", "#ffffff"];
const NAMES = ["teal", "amber", "coral", "violet", "blue", "white"];
const SHARP = 1600; // longest side of the picture on the page, in its own pixels
const ENLARGED = 4; // a small photo, so that its outlines are smooth

const client = new Client(), camera = new Camera(), closeUps = new CloseUps();
const canvas = find<HTMLCanvasElement>("#picture"), painter = new Painter(canvas);
const form = find<HTMLFormElement>("#effects"), still = matchMedia("(prefers-reduced-motion: reduce)");
let openness = new Openness();
let shown: { id: number; scene: Scene; result: Result } | undefined;
let turn = 0; // of what the person asked for: an answer to an older request is dropped
let colour = COLOURS[0]!;

type State = "empty" | "loading" | "photo" | "camera";
function become(state: State): void {
  document.body.dataset.state = state;
  find("#invitation").hidden = state !== "empty" || !!shown;
  find("#loading").hidden = state !== "loading";
  canvas.hidden = !shown;
}

const say = (text: string): void => {
  if (find("#status").textContent !== text) find("#status").textContent = text;
};

function warn(text: string): void {
  find("#notice").textContent = text;
  find("#notice").hidden = !text;
  if (text) say(text);
}

function effects(): Effects {
  const chosen = new FormData(form);
  return {
    outline: chosen.has("outline"), iris: chosen.has("iris"), glow: chosen.has("glow"),
    sparkle: chosen.has("sparkle"), rest: chosen.get("rest") as Rest, colour,
  };
}

function paint(): void {
  if (!shown) return;
  const { scene, result } = shown, { width, height } = result.record;
  const scale = Math.min(SHARP / Math.max(width, height), camera.running ? 1 : ENLARGED);
  const now = still.matches ? 1.3 : performance.now() / 1000, chosen = effects();
  painter.draw(scene, { x: 0, y: 0, width, height }, scale, chosen, now);
  closeUps.show(scene, result.record.faces, chosen, now);
}

/** Keep the sparkle moving on a photo. */
function animate(): void {
  if (document.body.dataset.state === "photo" && !still.matches && effects().sparkle) paint();
  requestAnimationFrame(animate);
}

function show({ id, result, bitmap }: Answer): void {
  shown?.scene.photo.close();
  shown = { id, result, scene: { photo: bitmap, shapes: result.shapes, patches: result.patches } };
  const before = performance.now();
  paint();
  showTimes(result, performance.now() - before);
  const eyes = result.record.faces[0]?.eyes ?? [];
  for (const side of ["right", "left"] as const) {
    gauge(side, eyes.find((eye) => eye.side === side)?.openness);
  }
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-save]")) {
    button.disabled = false;
  }
}

function describe({ record }: Result): string {
  const count = (number: number, name: string) => `${number} ${name}${number === 1 ? "" : "s"}`;
  const eyes = record.faces.reduce((sum, face) => sum + face.eyes.length, 0);
  return `${count(eyes, "eye")} in ${count(record.faces.length, "face")}`;
}

/** Load the networks, and say how far that is. */
async function ready(): Promise<void> {
  if (client.engine) return;
  become("loading");
  say("Loading the networks");
  await client.start();
  const { backend, threads, note } = client.engine!;
  const words = backend === "WebGPU" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  find("#engine").textContent = `${words}. ${note}`;
  for (const size of document.querySelectorAll("[data-size]")) size.remove();
}

client.onprogress = (share, total) => {
  find<HTMLProgressElement>("#progress").value = share;
  find("#loading-text").textContent = share < 1
    ? `Loading the networks: ${Math.round(share * 100)} % of ${(total / 1e6).toFixed(0)} MB` : "Starting";
};

async function photo(file: Blob, name: string): Promise<void> {
  const mine = ++turn;
  stopCamera();
  warn("");
  try {
    await ready();
    become("loading");
    find("#loading-text").textContent = "Looking";
    find<HTMLProgressElement>("#progress").removeAttribute("value");
    const answer = await client.photo(file, name), { result } = answer;
    if (mine !== turn) return answer.bitmap.close();
    show(answer);
    const { width, height } = result.record;
    find("#fps").textContent = `${width} × ${height}`;
    canvas.setAttribute("aria-label", `${name}: ${describe(result)}`);
    become("photo");
    if (result.record.warning) warn(sentence(result.record.warning));
    else say(`${describe(result)}.`);
  } catch (error) {
    if (mine === turn) failed(error);
  }
}

const sentence = (text: string): string => `${text[0]!.toUpperCase()}${text.slice(1)}.`;

function failed(error: unknown): void {
  become(shown ? "photo" : "empty");
  warn(error instanceof Error ? error.message : String(error));
}

async function startCamera(): Promise<void> {
  const mine = ++turn;
  warn("");
  try {
    await camera.start();
    if (mine !== turn) return stopCamera();
    find("#camera").setAttribute("aria-pressed", "true");
    find("#camera-text").textContent = "Turn the camera off";
    await ready();
    if (mine !== turn) return;
    canvas.setAttribute("aria-label", "The camera's picture with the eyes marked");
    openness = new Openness();
    await run(mine);
  } catch (error) {
    if (mine !== turn) return;
    stopCamera();
    failed(error);
  }
}

async function run(mine: number): Promise<void> {
  const starts: number[] = [];
  let frames = 0, faces = -1, said = 0;
  while (mine === turn && camera.running) {
    const bitmap = await camera.frame();
    if (mine !== turn || !camera.running) return bitmap.close();
    const answer = await client.frame(bitmap, frames === 0);
    if (mine !== turn) return answer.bitmap.close();
    const { result } = answer, now = performance.now() / 1000;
    show(answer);
    if (frames++ === 0) become("camera");
    starts.push(now);
    if (starts.length > 20) starts.shift();
    const rate = (starts.length - 1) / (now - starts[0]!);
    find("#fps").textContent = starts.length > 2 ? `${rate.toFixed(1)} frames/s` : "";
    document.body.dataset.frames = String(frames);
    track(result, now);
    if (result.record.faces.length !== faces && now - said > 3) {
      [faces, said] = [result.record.faces.length, now];
      say(faces ? `Camera on: ${describe(result)}` : "Camera on: no face in sight");
    }
  }
}

/** The largest face's curve and blinks. */
function track(result: Result, time: number): void {
  const face = result.record.faces[0];
  if (face && !face.problem) {
    const [[x, y], [a, b]] = face.landmarks as [Point, Point];
    const square = (a - x) ** 2 + (b - y) ** 2;
    const lids = (side: Side): Lids => {
      const eye = face.eyes.find((one) => one.side === side);
      return { open: eye?.openness ?? 0, size: (eye?.area ?? 0) / square };
    };
    openness.add({ time, right: lids("right"), left: lids("left") });
  }
  openness.draw(find<HTMLCanvasElement>("#curve"));
  find("#blinks").textContent = String(openness.count);
}

function stopCamera(): void {
  camera.stop();
  find("#camera").setAttribute("aria-pressed", "false");
  find("#camera-text").textContent = "Turn the camera on";
}

camera.onlost = () => {
  turn++;
  stopCamera();
  failed(new Error("The camera was switched off."));
};

async function save(what: string): Promise<void> {
  if (!shown) return;
  const { record } = shown.result, stem = record.photo.replace(/\.[^.]*$/, "") || "photo";
  if (what === "json") {
    return download(jsonFile(record), `${stem}_eyes.json`);
  }
  const blob = what === "picture"
    ? await new Promise<Blob | null>((done) => canvas.toBlob(done))
    : await client.file(what as "mask" | "cutout", shown.id);
  if (blob) download(blob, what === "picture" ? `${stem}_eyes.png` : `${stem}_eyes_${what}.png`);
}

function listen(): void {
  const file = find<HTMLInputElement>("#file"), stage = find("#stage");
  file.onchange = () => {
    if (file.files?.[0]) void photo(file.files[0], file.files[0].name);
    file.value = "";
  };
  document.ondragover = (event) => {
    event.preventDefault();
    stage.classList.add("over");
  };
  document.ondragleave = (event) => {
    if (!event.relatedTarget) stage.classList.remove("over");
  };
  document.ondrop = (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    const dropped = event.dataTransfer?.files[0];
    if (dropped) void photo(dropped, dropped.name);
  };
  document.onpaste = (event) => {
    const pasted = event.clipboardData?.files[0];
    if (pasted) void photo(pasted, pasted.name);
  };
  find("#drawn").onclick = async () => {
    try {
      await photo(await (await fetch(`${BASE}face.jpg`)).blob(), "drawn.jpg");
    } catch (error) {
      failed(error);
    }
  };
  find("#camera").onclick = () => {
    if (!camera.running) return void startCamera();
    turn++;
    stopCamera();
    become(shown ? "photo" : "empty");
    say("Camera off");
  };
  form.onchange = () => paint();
  form.onsubmit = (event) => event.preventDefault();
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-save]")) {
    button.onclick = () => void save(button.dataset.save!).catch(failed);
  }
}

function swatches(): void {
  COLOURS.forEach((value, n) => {
    const label = document.createElement("label"), input = document.createElement("input");
    [input.type, input.name, input.value, input.checked] = ["radio", "colour", value, n === 0];
    input.setAttribute("aria-label", NAMES[n]!);
    label.append(input);
    label.style.setProperty("--swatch", value);
    input.onchange = () => {
      colour = value;
      paint();
    };
    find(".swatches").append(label);
  });
}

listen();
swatches();
if (!still.matches) followPointer();
gauge("right", undefined);
gauge("left", undefined);
requestAnimationFrame(animate);
void firstUse().then((size) => {
  for (const label of document.querySelectorAll("[data-size]")) {
    label.textContent = `loads ${size.toFixed(0)} MB once`;
  }
});
if ("serviceWorker" in navigator && window.isSecureContext) {
  void navigator.serviceWorker.register(new URL("../sw.js", BASE));
}
