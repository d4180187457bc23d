/** Openness over time: the curve of the last seconds, and how often an eye closed. */
export interface Moment { time: number; right: number; left: number }

const SECONDS = 10, HALF = 0.55, REOPENED = 0.75, LONGEST = 0.8;

export class Openness {
  readonly moments: Moment[] = [];
  readonly blinks: number[] = []; // when
  count = 0;
  private closedAt: number | undefined;

  /** Add a moment, in seconds; an eye that is not seen in a face is closed: 0. */
  add(moment: Moment): void {
    this.moments.push(moment);
    while (this.moments[0]!.time < moment.time - SECONDS) this.moments.shift();
    while (this.blinks.length && this.blinks[0]! < moment.time - SECONDS) this.blinks.shift();
    const now = (moment.right + moment.left) / 2;
    const open = this.usual();
    if (now < HALF * open) {
      this.closedAt ??= moment.time;
    } else if (this.closedAt !== undefined && now > REOPENED * open) {
      if (moment.time - this.closedAt < LONGEST) {
        this.count++;
        this.blinks.push(moment.time);
      }
      this.closedAt = undefined;
    }
  }

  /** How far open these eyes usually are. */
  private usual(): number {
    const sorted = this.moments.map((m) => (m.right + m.left) / 2).sort((a, b) => a - b);
    return sorted[Math.floor(0.8 * (sorted.length - 1))] ?? 0;
  }

  /** Draw both curves; the newest moment is on the right. */
  draw(canvas: HTMLCanvasElement): void {
    const style = getComputedStyle(canvas), context = canvas.getContext("2d")!;
    const { width, height } = canvas, newest = this.moments.at(-1)?.time ?? 0;
    const top = Math.max(0.4, ...this.moments.map((m) => Math.max(m.right, m.left)));
    const x = (time: number) => width - ((newest - time) / SECONDS) * width;
    const y = (value: number) => height - 6 - (value / top) * (height - 16);
    context.clearRect(0, 0, width, height);
    context.strokeStyle = style.getPropertyValue("--rule");
    context.lineWidth = 1;
    for (const value of [0, top / 2, top]) {
      context.beginPath();
      context.moveTo(0, Math.round(y(value)) + 0.5);
      context.lineTo(width, Math.round(y(value)) + 0.5);
      context.stroke();
    }
    context.fillStyle = style.getPropertyValue("--muted");
    for (const time of this.blinks) {
      context.beginPath();
      context.arc(x(time), height - 6, 5, 0, 2 * Math.PI);
      context.fill();
    }
    for (const side of ["left", "right"] as const) {
      context.beginPath();
      for (const moment of this.moments) context.lineTo(x(moment.time), y(moment[side]));
      context.strokeStyle = style.getPropertyValue(`--${side}`);
      context.setLineDash(side === "left" ? [9, 5] : []);
      context.lineWidth = 3.5;
      context.lineJoin = "round";
      context.stroke();
      context.setLineDash([]);
    }
  }
}
