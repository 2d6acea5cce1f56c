// For tests: server-sent events as the page reads them. Reads JSON from stdin: a list of bodies (base64) and the sizes of
// the pieces that they come in. Prints the frames of each as a line of JSON.
import { readFileSync } from "node:fs";
import { load } from "./load.mjs";

const { FrameReader } = await load("src/sse.ts");
for (const { body, sizes } of JSON.parse(readFileSync(0, "utf8"))) {
  const bytes = Buffer.from(body, "base64");
  const reader = new FrameReader();
  const frames = [];
  for (let start = 0, turn = 0; start < bytes.length; turn++) {
    const size = sizes[turn % sizes.length];
    frames.push(...reader.feed(bytes.subarray(start, start + size)));
    start += size;
  }
  console.log(JSON.stringify(frames));
}
