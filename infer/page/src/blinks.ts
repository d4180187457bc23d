/** Openness over time: the curve of the last seconds, and how often an eye closed. */
/** Height over width, and the area in squares of the distance of the eyes; 0, 0 if unseen. */
export interface Lids { open: number; size: number }
export interface Moment { time: number; right: Lids; left: Lids }

// A falling lid takes more of an eye's area than of its openness: the corners close first.
const SECONDS = 10, CLOSED = 0.4, REOPENED = 0.7, LONGEST = 0.8, SLIVER = 0.1;
const SHUT: Lids = { open: 0, size: 0 };

export class Openness {
  readonly moments: Moment[] = [];
  readonly blinks: number[] = []; // when
  count = 0;
  private closedAt: number | undefined;

  /** Add a moment, in seconds. */
  add(moment: Moment): void {
    const usual = this.usual(), shut = (lids: Lids) => (lids.size < SLIVER * usual ? SHUT : lids);
    this.moments.push({ ...moment, right: shut(moment.right), left: shut(moment.left) });
    while (this.moments[0]!.time < moment.time - SECONDS) this.moments.shift();
    while (this.blinks.length && this.blinks[0]! < moment.time - SECONDS) this.blinks.shift();
    const now = size(moment);
    if (now < CLOSED * usual) {
      this.closedAt ??= moment.time;
    } else if (this.closedAt !== undefined && now > REOPENED * usual) {
      if (moment.time - this.closedAt < LONGEST) {
        this.count++;
        this.blinks.push(moment.time);
      }
      this.closedAt = undefined;
    }
  }

  /** How large these eyes usually are. */
  private usual(): number {
    const sorted = this.moments.map(size).sort((a, b) => a - b);
    return sorted[Math.floor(0.8 * (sorted.length - 1))] ?? 0;
  }

  /** Draw both curves; the newest moment is on the right. */
  draw(canvas: HTMLCanvasElement): void {
    const style = getComputedStyle(canvas), context = canvas.getContext("2d")!;
    const { width, height } = canvas, newest = this.moments.at(-1)?.time ?? 0;
    const top = Math.max(0.4, ...this.moments.map((m) => Math.max(m.right.open, m.left.open)));
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
      for (const moment of this.moments) context.lineTo(x(moment.time), y(moment[side].open));
      context.strokeStyle = style.getPropertyValue(`--${side}`);
      context.setLineDash(side === "left" ? [9, 5] : []);
      context.lineWidth = 3.5;
      context.lineJoin = "round";
      context.stroke();
      context.setLineDash([]);
    }
  }
}

const size = ({ right, left }: Moment): number => (right.size + left.size) / 2;
