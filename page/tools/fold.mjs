// For tests: folds logs as the page does. Reads JSON from stdin: a list of logs, each a list of events as the server
// sends them. Prints one line for each log: the views after each event, then the same made from stored views.
import { readFileSync } from "node:fs";
import { load } from "./load.mjs";

const { RunView, eventOf } = await load("src/view/index.ts");
const logs = JSON.parse(readFileSync(0, "utf8"));
for (const log of logs) {
  const events = log.map((record) => eventOf(record));
  const texts = [];
  const view = new RunView();
  for (const event of events) {
    const before = view.lastSeq ? JSON.stringify(view) : null;
    const changed = view.apply(event);
    for (const id of changed) if (id !== 0 && !view.find(id)) throw new Error(`${id} is no entry`);
    const text = JSON.stringify(view);
    if (before !== null) {
      const stored = RunView.from(JSON.parse(before));
      stored.apply(event);
      if (JSON.stringify(stored) !== text) throw new Error(`a stored view goes on otherwise at ${event.seq}`);
    }
    texts.push(text);
  }
  console.log(`[${texts.join(",")}]`);
}
