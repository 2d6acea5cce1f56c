// Runs of AG-UI with the official HttpAgent. Arguments: the URL, and a list of what to do, one run after the other:
//   {"say": TEXT}            a message of the user, and a run
//   {"answer": PAYLOAD}      a run that resumes, with the same answer to every interrupt
//   {"stop_after": COUNT}    of text events: the run is cancelled by the server's own address
//   {"leave_after": COUNT}   of text events: the client goes away, and asks for the same run again
// Prints a line for each run: the types of its events, its end, and the messages that the client has then.
import { HttpAgent, buildResumeArray } from "@ag-ui/client";

const [url, steps, headers = "{}"] = process.argv.slice(2);
const warnings = [];
console.warn = (text) => warnings.push(String(text));
console.error = () => {};

let server = null;
const agent = new HttpAgent({
  url,
  threadId: "thread-1",
  headers: JSON.parse(headers),
  fetch: async (address, init) => {
    const response = await fetch(address, init);
    server = response.headers.get("runstream-run-id");
    return response;
  },
});

const run = async (parameters, onText = () => {}) => {
  const seen = { types: [], custom: [], end: null, error: null, texts: 0 };
  try {
    await agent.runAgent(parameters, {
      onEvent: ({ event }) => {
        seen.types.push(event.type);
        if (event.type === "CUSTOM") seen.custom.push({ name: event.name, value: event.value });
        if (event.type === "RUN_FINISHED" || event.type === "RUN_ERROR") seen.end = event;
        if (event.type === "TEXT_MESSAGE_CONTENT") onText(++seen.texts);
      },
    });
  } catch (error) {
    seen.error = String(error.message ?? error);
  }
  return seen;
};
const show = (seen) =>
  console.log(JSON.stringify({ ...seen, server, messages: agent.messages, interrupts: agent.pendingInterrupts, warnings }));

let count = 0;
for (const step of JSON.parse(steps)) {
  if (step.say !== undefined) agent.addMessage({ id: `user-${++count}`, role: "user", content: step.say });
  const runId = `run-${++count}`;
  if (step.answer !== undefined) {
    const answers = Object.fromEntries(
      agent.pendingInterrupts.map(({ id }) => [id, { status: "resolved", payload: step.answer }]),
    );
    show(await run({ runId, resume: buildResumeArray(agent.pendingInterrupts, answers) }));
  } else if (step.stop_after !== undefined) {
    const cancel = new URL("/runs/", url);
    show(
      await run({ runId }, (texts) => {
        if (texts !== step.stop_after) return;
        void fetch(`${cancel}${server}/cancel`, {
          method: "POST",
          headers: { "Content-Type": "application/json", ...JSON.parse(headers) },
          body: "{}",
        });
      }),
    );
  } else if (step.leave_after !== undefined) {
    show(await run({ runId }, (texts) => texts === step.leave_after && agent.abortRun()));
    show(await run({ runId }));
  } else {
    show(await run({ runId }));
  }
}
