// Chats with the official Chat of the AI SDK over its DefaultChatTransport. Arguments: the URL of the server, and a
// list of what to do, one after the other:
//   {"say": TEXT}            send a message, and wait for the answer
//   {"answer": BOOLEAN}      say so to every call that waits, and wait for the answer to that
//   {"stop_after": COUNT}    send a message, and stop at so many updates by the server's address
//   {"leave_after": COUNT}   send a message, go away at so many updates, and resume as a page that was loaded again
//   {"resume": true}         resume
// Prints a line for each: the messages, the chat's status and error, types of the chunks, and what does not validate.
import {
  AbstractChat,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  validateUIMessages,
} from "ai";

const [url, steps, headers = "{}", id = "chat-1"] = process.argv.slice(2);

class State {
  status = "ready";
  error = undefined;
  messages;
  onChange = () => {};
  constructor(messages = []) {
    this.messages = messages;
  }
  pushMessage = (message) => {
    this.messages = this.messages.concat(message);
    this.onChange();
  };
  popMessage = () => {
    this.messages = this.messages.slice(0, -1);
  };
  replaceMessage = (index, message) => {
    this.messages = this.messages.map((each, place) => (place === index ? structuredClone(message) : each));
    this.onChange();
  };
  snapshot = (value) => structuredClone(value);
}

class Chat extends AbstractChat {
  constructor(messages) {
    const types = [];
    const statuses = [];
    const transport = new DefaultChatTransport({
      api: `${url}/api/chat`,
      headers: JSON.parse(headers),
      fetch: async (address, init) => {
        const response = await fetch(address, init);
        statuses.push(response.status);
        if (response.ok && response.status !== 204 && response.headers.get("x-vercel-ai-ui-message-stream") !== "v1")
          throw new Error("the header of the protocol is missing");
        return response;
      },
    });
    const read = transport.processResponseStream.bind(transport);
    transport.processResponseStream = (stream) =>
      read(stream).pipeThrough(
        new TransformStream({
          transform(chunk, controller) {
            types.push(chunk.type);
            controller.enqueue(chunk);
          },
        }),
      );
    const state = new State(messages);
    const ended = { resolve: () => {} };
    super({
      id,
      transport,
      state,
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
      onFinish: (how) => ended.resolve(how),
    });
    Object.assign(this, { types, statuses, inner: state, ended });
  }
}

let chat = new Chat();
const show = async () => {
  let invalid = null;
  try {
    if (chat.messages.length > 0) await validateUIMessages({ messages: chat.messages });
  } catch (error) {
    invalid = String(error.message);
  }
  const { messages, status, types, statuses } = chat;
  console.log(JSON.stringify({ messages, status, error: chat.error?.message ?? null, types, statuses, invalid }));
  types.length = statuses.length = 0;
};
const atUpdate = (count, act) => {
  let updates = 0;
  chat.inner.onChange = () => {
    if (++updates === count) act();
  };
};

for (const step of JSON.parse(steps)) {
  if (step.answer !== undefined) {
    const again = new Promise((resolve) => (chat.ended.resolve = resolve));
    const waiting = chat.lastMessage.parts.filter((part) => part.state === "approval-requested");
    for (const part of waiting) await chat.addToolApprovalResponse({ id: part.approval.id, approved: step.answer });
    await again;
  } else if (step.stop_after !== undefined) {
    atUpdate(step.stop_after, () => {
      void fetch(`${url}/api/chat/${encodeURIComponent(id)}/stop`, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...JSON.parse(headers) },
        body: "{}",
      });
    });
    await chat.sendMessage({ text: step.say });
  } else if (step.leave_after !== undefined) {
    atUpdate(step.leave_after, () => void chat.stop());
    await chat.sendMessage({ text: step.say });
    await show();
    chat = new Chat(chat.messages);
    await chat.resumeStream();
  } else if (step.resume) {
    await chat.resumeStream();
  } else {
    await chat.sendMessage({ text: step.say });
  }
  chat.inner.onChange = () => {};
  await show();
}
