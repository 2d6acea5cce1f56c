// Where people write. Send becomes Stop while a run goes on; what is written then is said to the run that goes on.

import type { VNode } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Desk } from "../desk";
import { Icon } from "./icons";

const LONGEST_PX = 240;

export function Composer({ desk }: { desk: Desk }): VNode {
  const field = useRef<HTMLTextAreaElement>(null);
  const { going, draft } = desk;
  const run = desk.current;
  const waiting = run?.going ? run.view.pending : [];
  useLayoutEffect(() => {
    const element = field.current!;
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, LONGEST_PX)}px`;
  }, [draft]);
  useEffect(() => {
    if (matchMedia("(hover: hover)").matches) field.current?.focus();
  }, []);
  const agents = desk.server?.agents ?? [];
  const canSend = Boolean(draft.trim()) && desk.server !== null && !desk.sending;
  const send = (): void => void desk.send();
  return (
    <form
      class="composer"
      aria-label="Message"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {waiting.length > 0 && (
        <p class="asks">
          <Icon name="hand" />
          <span>{waiting.length === 1 ? `${waiting[0]!.name} waits for you` : `${waiting.length} calls wait for you`}</span>
          <button type="button" class="quiet" onClick={() => show(waiting[0]!.id)}>
            Show
          </button>
        </p>
      )}
      {desk.problem && (
        <p class="problem" role="alert">
          <Icon name="alert" /> <span>{desk.problem}</span>
        </p>
      )}
      <div class="box">
        <label for="message" class="sr-only">
          {going ? "Say something more to the run that goes on" : "Your message"}
        </label>
        <textarea
          id="message"
          ref={field}
          rows={1}
          value={draft}
          placeholder={going ? "Say something more…" : desk.continues ? "Ask something…" : "Ask something new…"}
          enterkeyhint="send"
          onInput={(event) => desk.write(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <div class="box-foot">
          {agents.length > 1 ? (
            <label class="agents">
              <span class="sr-only">Agent</span>
              <select value={desk.agent} disabled={going} onChange={(event) => desk.choose(event.currentTarget.value)}>
                {agents.map((agent) => (
                  <option key={agent.name} value={agent.name}>
                    {agent.name}
                  </option>
                ))}
              </select>
            </label>
          ) : (
            <span class="hint">{agents[0]?.name}</span>
          )}
          <span class="hint keys" aria-hidden="true">
            {going ? "Esc stops" : "Enter sends, Shift+Enter a new line"}
          </span>
          {going && (
            <button type="button" class="stop" disabled={run!.stopping} onClick={() => void desk.stop()} aria-label="Stop" title="Stop (Esc)">
              <Icon name="stop" />
            </button>
          )}
          {(!going || canSend) && (
            <button type="submit" class="send" disabled={!canSend} aria-label="Send" title="Send (Enter)">
              <Icon name="send" />
            </button>
          )}
        </div>
      </div>
    </form>
  );
}

function show(id: number): void {
  const card = document.getElementById(`call-${id}`);
  card?.scrollIntoView({ block: "center" });
  card?.querySelector<HTMLElement>(".approval button")?.focus();
}
