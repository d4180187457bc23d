/** What stands beside the picture: gauges, close-ups, times. */
import { Painter, type Effects, type Scene, type View } from "./effects";
import type { Face, Result, Side, Step } from "./types";

export const find = <T extends Element = HTMLElement>(selector: string): T => {
  const found = document.querySelector<T>(selector);
  if (!found) throw new Error(`no ${selector}`);
  return found;
};

const WIDE_OPEN = 0.5, MOST = 6, CLOSE_UP = 400;
const STEPS: [Step | "draw", string][] = [
  ["read", "read"], ["find", "find"], ["cut", "cut out"], ["network", "network"],
  ["back", "bring back"], ["draw", "draw"],
];

/** Show how far an eye is open; undefined if it is not seen. */
export function gauge(side: Side, openness: number | undefined): void {
  const figure = find(`#gauge-${side}`);
  const open = Math.min(1, (openness ?? 0) / WIDE_OPEN);
  const up = 46 - 68 * open, down = 46 + 26 * open; // closed: the upper lid lies on the lower one
  const shape = `M6 26Q50 ${up} 94 26Q50 ${down} 6 26Z`;
  for (const path of figure.querySelectorAll("path")) path.setAttribute("d", shape);
  figure.querySelector("b")!.textContent = openness === undefined ? "–" : openness.toFixed(2);
  figure.classList.toggle("unseen", openness === undefined);
}

/** The part of a photo around a face's eyes; as wide as two and a half times its height. */
function around({ eyes }: Face): View {
  const left = Math.min(...eyes.map(({ box }) => box[0]));
  const top = Math.min(...eyes.map(({ box }) => box[1]));
  const right = Math.max(...eyes.map(({ box }) => box[0] + box[2]));
  const bottom = Math.max(...eyes.map(({ box }) => box[1] + box[3]));
  const width = 1.35 * Math.max(right - left, 2.2 * (bottom - top)), height = width / 2.5;
  return { x: (left + right - width) / 2, y: (top + bottom - height) / 2, width, height };
}

/** The row of close-ups; its elements are kept from frame to frame. */
export class CloseUps {
  private readonly items: { item: HTMLLIElement; painter: Painter; text: HTMLElement }[] = [];

  show(scene: Scene, faces: Face[], effects: Effects, seconds: number): void {
    const shown = faces.map((face, number) => ({ face, number }))
      .filter(({ face }) => face.eyes.length || face.problem).slice(0, MOST);
    find("#faces").hidden = !shown.length;
    shown.forEach(({ face, number }, n) => {
      const { item, painter, text } = (this.items[n] ??= this.item());
      item.hidden = false;
      item.classList.toggle("small", !face.eyes.length);
      const said = face.eyes.map((eye) => `${eye.side} ${eye.openness.toFixed(2)}`).join(" · ");
      const words = `Face ${number + 1}: ${said || face.problem}`;
      if (text.textContent !== words) text.textContent = words;
      if (!face.eyes.length) return;
      const view = around(face);
      const shapes = scene.shapes.filter((shape) => shape.face === number);
      painter.draw({ ...scene, shapes }, view, CLOSE_UP / view.width, effects, seconds);
    });
    for (const { item } of this.items.slice(shown.length)) item.hidden = true;
  }

  private item(): CloseUps["items"][number] {
    const item = document.createElement("li"), canvas = document.createElement("canvas");
    const text = document.createElement("p");
    canvas.setAttribute("aria-hidden", "true");
    item.append(canvas, text);
    find("#face-list").append(item);
    return { item, painter: new Painter(canvas), text };
  }
}

/** Milliseconds of each step, as a bar and as numbers. */
export function showTimes(result: Result, draw: number): void {
  const times = { ...result.times, draw };
  const sum = Object.values(times).reduce((a, b) => a + b, 0);
  const bar = find("#bar"), list = find("#times");
  if (!bar.children.length) {
    for (const [step, name] of STEPS) {
      const part = document.createElement("span"), line = document.createElement("div");
      part.className = line.className = `step ${step}`;
      line.append(document.createElement("dt"), document.createElement("dd"));
      line.firstElementChild!.textContent = name;
      bar.append(part);
      list.append(line);
    }
  }
  STEPS.forEach(([step], n) => {
    (bar.children[n] as HTMLElement).style.flexGrow = String(times[step] / sum);
    list.children[n]!.lastElementChild!.textContent = `${times[step].toFixed(times[step] < 10 ? 1 : 0)} ms`;
  });
}

/** The eyes of the page follow the pointer. */
export function followPointer(): void {
  document.addEventListener("pointermove", ({ clientX, clientY }) => {
    for (const eye of document.querySelectorAll<SVGGElement>(".look")) {
      const box = eye.ownerSVGElement!.getBoundingClientRect();
      if (!box.width) continue;
      const [x, y] = [clientX - box.x - box.width / 2, clientY - box.y - box.height / 2];
      const far = Math.hypot(x, y) || 1, reach = Math.min(1, far / 300);
      const size = eye.ownerSVGElement!.viewBox.baseVal.width;
      eye.style.transform = `translate(${(x / far) * reach * size * 0.11}px, ${(y / far) * reach * size * 0.05}px)`;
    }
  });
}
