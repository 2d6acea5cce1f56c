// The page as a whole.

import type { ComponentChildren, VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { giveToken } from "../api";
import { focusComposer, type Desk } from "../desk";
import { Composer } from "./composer";
import { DeskContext } from "./context";
import { Icon } from "./icons";
import { Sidebar } from "./sidebar";
import { Timeline } from "./timeline";
import { Transcript } from "./transcript";

export function App({ desk }: { desk: Desk }): VNode {
  useShortcuts(desk);
  const isEmpty = !desk.place && !desk.runs.length;
  const run = desk.current;
  const title = run ? (desk.runs[0]!.title ?? "Conversation") : "New conversation";
  useEffect(() => {
    const mark = !run?.going ? "" : run.view.pending.length ? "✋ " : "● ";
    document.title = run ? `${mark}${desk.runs[0]!.title ?? "Conversation"} · runstream` : "runstream";
  });
  return (
    <DeskContext.Provider value={desk}>
      <a class="skip" href="#message" onClick={(event) => (event.preventDefault(), focusComposer())}>
        To the message field
      </a>
      <Sidebar desk={desk} />
      {desk.showsHistory && <div class="veil" onClick={() => desk.toggleHistory()} />}
      <div class="stage">
        <header class="top">
          <button
            type="button"
            class="quiet only-narrow"
            id="history-switch"
            aria-label="Conversations"
            aria-expanded={desk.showsHistory}
            aria-controls="history"
            onClick={() => desk.toggleHistory()}
          >
            <Icon name="menu" />
          </button>
          <h1>{title}</h1>
          {run?.loaded && <ActiveAgent name={run.view.main.agent ?? run.agent} going={run.going} />}
          <button
            type="button"
            class="quiet"
            id="timeline-switch"
            aria-label="Timeline"
            title="Timeline"
            aria-expanded={desk.showsTimeline}
            onClick={() => desk.toggleTimeline()}
          >
            <Icon name="timeline" />
          </button>
        </header>
        {isEmpty ? <Empty desk={desk} /> : <Transcript desk={desk} />}
        <Composer desk={desk} />
      </div>
      {desk.showsTimeline && <Timeline desk={desk} run={run} />}
      <div id="announcements" class="sr-only" role="status" aria-live="polite" aria-atomic="false" />
      <div id="alerts" class="sr-only" role="alert" aria-atomic="false" />
      {desk.tokenQuestion !== null && <TokenQuestion message={desk.tokenQuestion} />}
    </DeskContext.Provider>
  );
}

function ActiveAgent({ name, going }: { name: string; going: boolean }): VNode {
  return (
    <span class={going ? "active-agent going" : "active-agent"} title={going ? "The active agent" : "The agent that answered last"}>
      <span class="pulse" aria-hidden="true" />
      <span class="active-name">{name}</span>
    </span>
  );
}

function Empty({ desk }: { desk: Desk }): VNode {
  const agents = desk.server?.agents ?? [];
  const chosen = agents.find((agent) => agent.name === desk.agent);
  return (
    <main class="empty" id="conversation" aria-label="Conversation">
      <Icon name="spark" />
      <h2>{chosen ? `Ask ${chosen.name}` : "runstream"}</h2>
      {chosen?.description && <p>{withQuestions(chosen.description, desk)}</p>}
      <p class="note">Runs go on when you leave. Come back, reload or open another tab: nothing is lost.</p>
    </main>
  );
}

/** What a description quotes, “like this”, can be asked by a click. */
function withQuestions(text: string, desk: Desk): ComponentChildren {
  return text.split(/(“[^”]+”)/).map((piece, index) =>
    index % 2 === 0 ? (
      piece
    ) : (
      <a
        href="#message"
        class="suggestion"
        key={index}
        onClick={(event) => (event.preventDefault(), void desk.send(piece.slice(1, -1)))}
      >
        {piece}
      </a>
    ),
  );
}

function TokenQuestion({ message }: { message: string }): VNode {
  const [token, setToken] = useState("");
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  return (
    <dialog ref={dialog} class="token" aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (token.trim()) giveToken(token.trim());
        }}
      >
        <h2 id="token-title">Token</h2>
        <p>
          {message.replace(/\.?$/, ".")} What you give is kept for this tab alone, until you close it.
        </p>
        <label class="field">
          <span>Bearer token</span>
          <input
            type="password"
            value={token}
            autocomplete="current-password"
            spellcheck={false}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary" disabled={!token.trim()}>
          Go on
        </button>
      </form>
    </dialog>
  );
}

/** So narrow that the timeline covers the conversation. */
const COVERED = "(max-width: 1100px)";

function useShortcuts(desk: Desk): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.defaultPrevented || event.isComposing || desk.tokenQuestion !== null) return;
      if (event.key === "Escape") {
        if (desk.showsHistory) desk.toggleHistory();
        else if (desk.showsTimeline && matchMedia(COVERED).matches) desk.closeTimeline();
        else if (desk.going) void desk.stop();
        else return;
        event.preventDefault();
      } else if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        desk.begin();
      } else if (event.key === "/" && !isField(event.target)) {
        event.preventDefault();
        focusComposer();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

function isField(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("input, textarea, select");
}
