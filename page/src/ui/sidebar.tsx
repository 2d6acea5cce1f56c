// What was asked before, and the way to begin anew.

import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { hashOf, type Desk, type Past } from "../desk";
import { when } from "./format";
import { Icon, type IconName } from "./icons";

const STATUSES: Record<string, string> = {
  queued: "waits to begin",
  running: "going on",
  waiting: "waits for you",
  completed: "completed",
  failed: "failed",
  cancelled: "stopped",
  interrupted: "interrupted",
};

export function Sidebar({ desk }: { desk: Desk }): VNode {
  return (
    <nav class={desk.showsHistory ? "sidebar shown" : "sidebar"} id="history" aria-label="Conversations">
      <div class="brand">
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <rect width="32" height="32" rx="8" />
          <path d="M7 10.5h11M7 16h18M7 21.5h7" />
        </svg>
        <span>runstream</span>
        <button type="button" class="quiet only-narrow" aria-label="Close the list" onClick={() => desk.toggleHistory()}>
          <Icon name="close" />
        </button>
      </div>
      <button type="button" class="begin" onClick={() => desk.begin()}>
        <Icon name="add" /> New conversation
      </button>
      <h2 class="sr-only">What was asked before</h2>
      <ul class="past">
        {(desk.history ?? []).map((past) => (
          <PastLine key={past.place} past={past} desk={desk} />
        ))}
        {desk.hasOlder && (
          <li class="older">
            <button type="button" aria-disabled={desk.loadingOlder} onClick={() => void desk.older()}>
              {desk.loadingOlder ? "Looking for older ones…" : "Older conversations"}
            </button>
          </li>
        )}
      </ul>
      {desk.history?.length === 0 && <p class="note">What you ask is kept here.</p>}
      <Theme />
    </nav>
  );
}

function PastLine({ past, desk }: { past: Past; desk: Desk }): VNode {
  const [asks, setAsks] = useState(false);
  const sure = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (asks) sure.current?.focus();
  }, [asks]);
  const current = past.place === desk.place;
  const title = past.title || "Without a text";
  // Of the conversation that is open the page knows more than the list.
  const run = current ? desk.current : undefined;
  const status = run?.loaded && run.going ? (run.view.pending.length ? "waiting" : "running") : past.status;
  const isOpen = ["queued", "running", "waiting"].includes(status);
  return (
    <li class={current ? "current" : undefined}>
      <a
        href={hashOf(past.place)}
        aria-current={current ? "page" : undefined}
        title={title}
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          void desk.open(past.place);
        }}
      >
        <span class="past-title">{title}</span>
        <span class="past-facts">
          <span class={`dot ${status}`} aria-hidden="true" />
          <span class={status === "completed" ? "sr-only" : undefined}>{STATUSES[status] ?? status}</span>
          {status !== "completed" && <span aria-hidden="true"> · </span>}
          <span>{past.agent}</span>
          <span aria-hidden="true"> · </span>
          <time dateTime={new Date(past.at * 1000).toISOString()}>{when(past.at)}</time>
        </span>
      </a>
      {asks ? (
        <span class="sure" role="group" aria-label={`Delete “${title}”?`} onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.stopPropagation();
          setAsks(false);
        }}>
          <button type="button" ref={sure} class="danger" onClick={() => void desk.remove(past)}>
            Delete
          </button>
          <button type="button" class="quiet" onClick={() => setAsks(false)} aria-label="Keep it">
            <Icon name="close" />
          </button>
        </span>
      ) : (
        <button
          type="button"
          class="quiet remove"
          aria-label={`Delete “${title}”`}
          title={isOpen ? "Delete, and end the run" : "Delete"}
          onClick={() => setAsks(true)}
        >
          <Icon name="trash" />
        </button>
      )}
    </li>
  );
}

const THEMES: { name: string; label: string; icon: IconName }[] = [
  { name: "system", label: "As the system", icon: "system" },
  { name: "light", label: "Light", icon: "sun" },
  { name: "dark", label: "Dark", icon: "moon" },
];

function Theme(): VNode {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "system");
  const choose = (name: string): void => {
    setTheme(name);
    if (name === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    try {
      if (name === "system") localStorage.removeItem("runstream.theme");
      else localStorage.setItem("runstream.theme", name);
    } catch {
      // Then it holds for this page alone.
    }
  };
  return (
    <fieldset class="theme">
      <legend class="sr-only">Colours</legend>
      {THEMES.map(({ name, label, icon }) => (
        <label key={name} title={label}>
          <input type="radio" name="theme" value={name} checked={theme === name} onChange={() => choose(name)} />
          <Icon name={icon} />
          <span class="sr-only">{label}</span>
        </label>
      ))}
    </fieldset>
  );
}
