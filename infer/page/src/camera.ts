/** The camera: frames, one after the other, as fast as they are taken away. */
export class Camera {
  private readonly video = document.createElement("video");
  private stream: MediaStream | undefined;

  /** Called when the camera goes away by itself: unplugged, or its permission withdrawn. */
  onlost: () => void = () => {};

  get running(): boolean {
    return this.stream !== undefined;
  }

  async start(): Promise<void> {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser gives no camera to this page: it has to be opened on this machine, or by https.");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 } },
      });
    } catch (error) {
      throw new Error(explain(error));
    }
    for (const track of this.stream.getTracks()) track.onended = () => this.onlost();
    this.video.srcObject = this.stream;
    this.video.muted = this.video.playsInline = true;
    await this.video.play();
  }

  stop(): void {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.stream = undefined;
  }

  /** The next frame, once there is a new one. */
  async frame(): Promise<ImageBitmap> {
    await new Promise<void>((done) => {
      const late = setTimeout(done, 500); // a hidden page gets no callbacks
      this.video.requestVideoFrameCallback
        ? this.video.requestVideoFrameCallback(() => (clearTimeout(late), done()))
        : requestAnimationFrame(() => (clearTimeout(late), done()));
    });
    return createImageBitmap(this.video);
  }
}

function explain(error: unknown): string {
  const name = error instanceof DOMException ? error.name : "";
  if (name === "NotAllowedError") {
    return "The camera is not allowed. Allow it beside the address of this page, then try again.";
  }
  if (name === "NotFoundError" || name === "OverconstrainedError") {
    return "No camera was found. Connect one, or choose a photo.";
  }
  if (name === "NotReadableError") {
    return "The camera is in use by another program. Close that one, then try again.";
  }
  return `The camera cannot be used (${error instanceof Error ? error.message : String(error)}).`;
}
