// UI message streams, parsed and checked by the official transport, read as a message that goes on with each response,
// and validated after each chunk. Argument: a file with a list of {responses: [TEXT of one response each]}. Prints a
// line for each: types of the chunks, what is wrong (errors that the stream tells included), and the message.
import { readFileSync } from "node:fs";
import { DefaultChatTransport, readUIMessageStream, validateUIMessages } from "ai";

for (const { responses } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const types = [];
  const errors = [];
  const invalid = [];
  let message;
  for (const text of responses) {
    const transport = new DefaultChatTransport({
      api: "http://unused.invalid/api/chat",
      fetch: async () => new Response(text, { headers: { "content-type": "text/event-stream" } }),
    });
    const stream = (await transport.sendMessages({ chatId: "c", messages: [], trigger: "submit-message" })).pipeThrough(
      new TransformStream({
        transform(chunk, controller) {
          types.push(chunk.type);
          controller.enqueue(chunk);
        },
      }),
    );
    try {
      const onError = (error) => errors.push(String(error.message ?? error));
      for await (message of readUIMessageStream({ message, stream, onError })) {
        if (message.parts.length > 0) await validateUIMessages({ messages: [message] });
      }
    } catch (error) {
      invalid.push(String(error.message ?? error));
    }
  }
  console.log(JSON.stringify({ types, errors, invalid, message }));
}
