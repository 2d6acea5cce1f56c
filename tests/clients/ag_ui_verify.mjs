// Streams of AG-UI, enforced, verified and applied as the official HttpAgent does. Argument: a file with a list of
// {responses: [TEXT of one run each], messages: [the conversation before]}. Prints a line for each: types of the
// events, ends of the runs, what is wrong, and the messages and interrupts that the client has then.
import { readFileSync } from "node:fs";
import { HttpAgent, enforceEvents, verifyEvents } from "@ag-ui/client";
import { from, lastValueFrom, toArray } from "rxjs";

const warnings = [];
console.warn = (text) => warnings.push(String(text));
console.error = () => {};

const eventsOf = (text) =>
  text
    .split("\n\n")
    .filter((frame) => frame.startsWith("data: "))
    .map((frame) => JSON.parse(frame.slice(6)));

for (const { responses, messages = [] } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  warnings.length = 0;
  const types = [];
  const ends = [];
  const errors = [];
  let response = null;
  const agent = new HttpAgent({
    url: "http://unused.invalid/",
    threadId: "thread-1",
    initialMessages: messages,
    fetch: async () => new Response(response, { headers: { "content-type": "text/event-stream" } }),
  });
  for (const text of responses) {
    response = text;
    try {
      const resume = agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: "cancelled" }));
      await agent.runAgent(
        { resume: resume.length ? resume : undefined },
        {
          onEvent: ({ event }) => {
            types.push(event.type);
            if (event.type === "RUN_FINISHED" || event.type === "RUN_ERROR") ends.push(event);
          },
        },
      );
      await lastValueFrom(from(eventsOf(text)).pipe(enforceEvents(), verifyEvents(), toArray()));
    } catch (error) {
      errors.push(String(error.message ?? error));
    }
  }
  console.log(
    JSON.stringify({ types, ends, errors, warnings, messages: agent.messages, interrupts: agent.pendingInterrupts }),
  );
}
