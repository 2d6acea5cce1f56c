// Streams of responses and of completions, read by the official OpenAI client. Argument: a file with a list of
// {kind: "responses" | "chat", text: TEXT of the stream}. Prints a line for each: what the client made of it, or its
// error, and the type of the last event.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

for (const { kind, text } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const client = new OpenAI({
    apiKey: "none",
    maxRetries: 0,
    fetch: async () => new Response(text, { headers: { "content-type": "text/event-stream" } }),
  });
  const made = { last: null };
  try {
    if (kind === "responses") {
      const stream = client.responses.stream({ model: "m", input: "hi" });
      stream.on("event", (event) => (made.last = event.type));
      const final = await stream.finalResponse();
      made.status = final.status;
      made.text = final.output_text;
    } else {
      const stream = client.chat.completions.stream({ model: "m", messages: [{ role: "user", content: "hi" }] });
      const final = await stream.finalChatCompletion();
      made.status = final.choices[0].finish_reason;
      made.text = final.choices[0].message.content;
    }
  } catch (error) {
    made.error = String(error.message);
  }
  console.log(JSON.stringify(made));
}
