// The official OpenAI client against a server: each request that a program of its users makes. Argument: the URL, and
// the name of what is to be done. Prints one JSON: what the client made of the answers, and the type of the last event,
// which alone tells a stream that has ended from one that was cut.
import OpenAI from "openai";

const [url, what] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

async function types(stream) {
  const found = [];
  for await (const event of stream) found.push([event.sequence_number, event.type]);
  return found;
}

const doings = {
  async responses() {
    const stream = client.responses.stream({ model: "Desk", input: "hi" });
    const seen = [];
    stream.on("event", (event) => seen.push(event.type));
    const final = await stream.finalResponse();
    const whole = await client.responses.create({ model: "Desk", input: "hi" });
    const raw = await types(await client.responses.create({ model: "Desk", input: "hi", stream: true }));
    const again = await types(await client.responses.retrieve(final.id, { stream: true, starting_after: 7 }));
    return {
      last: seen.at(-1),
      status: final.status,
      text: final.output_text,
      items: final.output.map((item) => item.type),
      whole: whole.output_text,
      rawLast: raw.at(-1)[1],
      dense: raw.every(([number], index) => number === index),
      again: again.map(([number]) => number),
      againLast: again.at(-1)[1],
    };
  },
  async cancel() {
    const begun = await client.responses.create({ model: "Slow", input: "hi", background: true });
    const cancelled = await client.responses.cancel(begun.id);
    await client.responses.delete(begun.id);
    const gone = await client.responses.retrieve(begun.id).catch((error) => [error.status, error.code]);
    return { begun: begun.status, cancelled: cancelled.status, gone };
  },
  async approvals() {
    const asked = await client.responses.stream({ model: "Payer", input: "pay" }).finalResponse();
    const answers = asked.output
      .filter((item) => item.type === "mcp_approval_request")
      .map((item) => ({ type: "mcp_approval_response", approval_request_id: item.id, approve: true }));
    const request = { model: "Payer", previous_response_id: asked.id, input: answers };
    const final = await client.responses.stream(request).finalResponse();
    return {
      asked: [asked.status, asked.output.map((item) => item.type)],
      final: [final.status, final.output.map((item) => item.output ?? item.type)],
    };
  },
  async chat() {
    const messages = [{ role: "user", content: "hi" }];
    const options = { stream_options: { include_usage: true } };
    const final = await client.chat.completions.stream({ model: "Desk", messages, ...options }).finalChatCompletion();
    const refused = await client.chat.completions
      .create({ model: "Desk", messages, n: 2 })
      .catch((error) => [error.status, error.param, error.type]);
    const failed = await client.chat.completions
      .stream({ model: "Failing", messages })
      .finalChatCompletion()
      .catch((error) => String(error.message));
    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    return { text: final.choices[0].message.content, tokens: final.usage.total_tokens, refused, failed, models };
  },
  async cut() {
    const seen = [];
    const stream = client.responses.stream({ model: "Desk", input: "hi" });
    stream.on("event", (event) => seen.push(event.type));
    const final = await stream.finalResponse();
    return { last: seen.at(-1), status: final.status };
  },
};

console.log(JSON.stringify(await doings[what]()));
