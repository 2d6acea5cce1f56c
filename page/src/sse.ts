// Server-sent events, from the pieces that a response comes in.

export interface Frame {
  id: string | null;
  event: string;
  data: string;
}

/** The frames of a stream; `feed` returns those that a piece has completed. */
export class FrameReader {
  private rest = "";
  private decoder = new TextDecoder();

  feed(bytes: Uint8Array): Frame[] {
    const text = this.rest + this.decoder.decode(bytes, { stream: true });
    const blocks = text.split("\n\n");
    this.rest = blocks.pop()!;
    const frames: Frame[] = [];
    for (const block of blocks) {
      const frame: Frame = { id: null, event: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("data: ")) frame.data += line.slice(6);
        else if (line.startsWith("id: ")) frame.id = line.slice(4);
        else if (line.startsWith("event: ")) frame.event = line.slice(7);
      }
      if (frame.data) frames.push(frame);
    }
    return frames;
  }
}
