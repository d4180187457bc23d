/** Files that the page hands out. */
import type { Record } from "./types";

/** The record as `python -m infer --json` writes it. */
export function jsonFile(record: Record): Blob {
  return new Blob([`${JSON.stringify(rounded(record))}\n`], { type: "application/json" });
}

/** Keep a hundredth of a pixel, and four places of what is 0..1: as infer/record.py. */
function rounded(value: unknown, key = ""): unknown {
  if (typeof value === "number") {
    const places = ["score", "openness", "probability", "threshold"].includes(key) ? 1e4 : 100;
    return Math.round(value * places) / places;
  }
  if (Array.isArray(value)) return value.map((item) => rounded(item));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([k, item]) => [k, rounded(item, k)]));
}

/** Hand a file to the browser. */
export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
