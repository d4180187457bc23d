/**
 * The service worker: the page works offline after the first use.
 *
 * Files in the folder of this build never change, so they are kept. It also asks for cross-origin
 * isolation, which a static host may not: without it WebAssembly has one thread.
 */
declare const VERSION: string;

const scope = self as unknown as ServiceWorkerGlobalScope;
const CACHE = `eyes-${VERSION}`;

scope.addEventListener("install", (event) => {
  event.waitUntil(scope.skipWaiting());
});

scope.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name.startsWith("eyes-") && name !== CACHE) await caches.delete(name);
    }
    await scope.clients.claim();
    // What was loaded before this worker was there.
    const cache = await caches.open(CACHE);
    const first = ["main.js", "style.css", "icon.svg", "constants.json"];
    await cache.addAll(["./", ...first.map((name) => `./${VERSION}/${name}`)]);
  })());
});

scope.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== scope.location.origin) return;
  event.respondWith(url.pathname.includes(`/${VERSION}/`) ? kept(event.request) : newest(event.request));
});

async function kept(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const found = await cache.match(request.url);
  if (found) return isolated(found);
  const answer = await fetch(request.url);
  if (answer.ok) await cache.put(request.url, answer.clone());
  return isolated(answer);
}

async function newest(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  try {
    const answer = await fetch(request);
    if (answer.ok && request.mode === "navigate") await cache.put("./", answer.clone());
    return isolated(answer);
  } catch (error) {
    const found = await cache.match("./");
    if (request.mode === "navigate" && found) return isolated(found);
    throw error;
  }
}

function isolated(answer: Response): Response {
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const { status, statusText } = answer;
  return new Response(answer.body, { status, statusText, headers });
}

export {};
