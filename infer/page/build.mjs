// Bundles the page into dist/: index.html and sw.js, and a folder of everything else whose name
// changes with its contents, so that no browser mixes two builds.
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
const RUNTIME = ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"];
const out = "dist/files";
rmSync("dist", { recursive: true, force: true });
mkdirSync(out, { recursive: true });

for (const name of readdirSync("data")) cpSync(`data/${name}`, `${out}/${name}`);
for (const name of RUNTIME) {
  for (const kind of ["mjs", "wasm"]) {
    cpSync(`node_modules/onnxruntime-web/dist/${name}.${kind}`, `${out}/${name}.${kind}`);
  }
}
cpSync("static", out, { recursive: true });

// What is loaded on demand: its size as it is, and as a host that compresses sends it.
const sizes = {}, packed = {};
for (const name of readdirSync(out).filter((name) => /\.(wasm|onnx|jpg)$/.test(name))) {
  const data = readFileSync(`${out}/${name}`);
  sizes[name] = data.length;
  packed[name] = name.endsWith(".wasm") ? gzipSync(data).length : data.length;
}
const shared = {
  bundle: true, minify: true, format: "esm", target: "es2022", legalComments: "none",
  conditions: ["onnxruntime-web-use-extern-wasm"],
};
await build({
  ...shared, entryPoints: ["src/main.ts", "src/worker.ts", "src/style.css"], outdir: out,
  splitting: true, define: { SIZES: JSON.stringify(sizes), PACKED: JSON.stringify(packed) },
});

const hash = createHash("sha256");
for (const name of readdirSync(out).sort()) hash.update(name).update(readFileSync(`${out}/${name}`));
const version = hash.digest("hex").slice(0, 10);
renameSync(out, `dist/${version}`);
writeFileSync("dist/index.html", readFileSync("index.html", "utf8").replaceAll("VERSION", version));
await build({
  ...shared, entryPoints: ["src/sw.ts"], outdir: "dist", define: { VERSION: JSON.stringify(version) },
});
const all = readdirSync(`dist/${version}`).map((name) => statSync(`dist/${version}/${name}`).size);
console.log(`infer/page/dist: ${(all.reduce((a, b) => a + b) / 1e6).toFixed(0)} MB`);
