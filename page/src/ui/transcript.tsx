// The conversation: runs one after the other, and the end of it kept in sight.

import type { VNode } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Desk } from "../desk";
import type { Run } from "../run";
import { HEAD, type MessageEntry } from "../view";
import { Copy } from "./copy";
import { AgentName, Bubble, StrandView } from "./entries";
import { count, rate, seconds } from "./format";
import { Icon } from "./icons";
import { stable } from "./stable";

/** So near to the end counts as at the end. */
const NEAR = 48;

export function Transcript({ desk }: { desk: Desk }): VNode {
  const area = useRef<HTMLElement>(null);
  const pinned = useRef(true);
  const drawnHeight = useRef(0);
  const top = useRef(0);
  const [away, setAway] = useState(false);
  const place = useRef(desk.place);
  if (place.current !== desk.place || desk.loading) {
    place.current = desk.place;
    pinned.current = true;
  }
  const toEnd = (smooth: boolean): void => {
    const element = area.current!;
    pinned.current = true;
    element.scrollTo({ top: element.scrollHeight, behavior: smooth ? "smooth" : "instant" });
  };
  useLayoutEffect(() => {
    const element = area.current!;
    if (element.scrollHeight === drawnHeight.current) return;
    drawnHeight.current = element.scrollHeight;
    if (pinned.current) element.scrollTop = element.scrollHeight;
    else setAway(true);
  });
  const onScroll = (): void => {
    const element = area.current!;
    const left = element.scrollHeight - element.scrollTop - element.clientHeight;
    // What comes moves the end away; only who scrolls up leaves it.
    if (left <= NEAR) pinned.current = true;
    else if (element.scrollTop < top.current) pinned.current = false;
    top.current = element.scrollTop;
    if (away !== left > NEAR) setAway(left > NEAR);
  };
  // Who folds something out looks at that, and is not sent to the end.
  const onClick = (event: MouseEvent): void => {
    if (!(event.target as Element).closest("summary, .tool-head")) return;
    pinned.current = false;
    requestAnimationFrame(() => requestAnimationFrame(onScroll));
  };
  return (
    <div class="transcript-frame">
      <main
        id="conversation"
        class="transcript"
        ref={area}
        onScroll={onScroll}
        onClick={onClick}
        tabIndex={0}
        aria-label="Conversation"
      >
        <div class="column">
          {desk.runs.map((run, index) => (
            <RunView
              key={run.id}
              run={run}
              revision={run.revision(HEAD)}
              desk={desk}
              isLast={index === desk.runs.length - 1}
            />
          ))}
          {!desk.loading && !desk.runs.length && <p class="note loading">Nothing is known of this conversation (any more).</p>}
          {desk.loading && !desk.runs.some((run) => run.loaded) && <p class="note loading">Loading…</p>}
        </div>
      </main>
      {away && (
        <button type="button" class="jump" onClick={() => toEnd(true)}>
          <Icon name="down" /> {desk.going ? "To the newest" : "To the end"}
        </button>
      )}
    </div>
  );
}

interface ShownRun {
  run: Run;
  revision: number;
  desk: Desk;
  isLast: boolean;
}

const RunView = stable<ShownRun>(
  ({ run, desk, isLast }) => {
    const { view } = run;
    return (
      <section class="run" id={run.id} aria-label={run.title ? `Run: ${run.title}` : "Run"}>
        <StrandView run={run} strand={view.main} going={run.going} />
        {run.unsent.map((unsent) => (
          <Bubble key={`unsent${unsent.id}`} text={unsent.text} note="on its way" waiting />
        ))}
        {run.failure && (
          <p class="failure">
            <Icon name="alert" /> <span>{run.failure}</span>
          </p>
        )}
        {run.going && run.loaded ? <Doing run={run} /> : view.ended && <End run={run} desk={desk} isLast={isLast} />}
      </section>
    );
  },
  (a, b) => a.run === b.run && a.revision === b.revision && a.isLast === b.isLast,
);

/** What is going on where nothing else shows it. */
function Doing({ run }: { run: Run }): VNode | null {
  const { view } = run;
  if (!run.connected) {
    return (
      <p class="doing lost" role="status">
        <span class="spinner" aria-hidden="true" /> The connection was lost. The run goes on; trying to come back…
      </p>
    );
  }
  if (run.stopping) return <p class="doing">Stopping…</p>;
  const last = view.main.entries.findLast((entry) => !entry.void && entry.type !== "discarded");
  const shows =
    last &&
    ((last.type === "message" && last.state === "streaming" && last.parts.some((part) => part.text)) ||
      (last.type === "reasoning" && last.state === "streaming") ||
      (last.type === "tool" && ["arguments", "waiting", "running"].includes(last.state)));
  if (shows) return null;
  const agent = view.main.agent ?? run.agent;
  const ahead = view.queuePosition - 1;
  const isNew = !last || last.type === "input";
  return (
    <>
      {isNew && agent && <AgentName name={agent} />}
      {ahead >= 0 ? (
        <p class="doing queued" role="status">
          <span class="spinner" aria-hidden="true" /> {ahead ? `Waiting: ${ahead} ahead` : "Waiting: next"}
        </p>
      ) : (
        <p class="doing" aria-label={`${agent} is working`}>
          <span class="dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
        </p>
      )}
    </>
  );
}

const ENDS: Record<string, string> = {
  cancelled: "Stopped",
  failed: "Failed",
  interrupted: "Ended to wait for an approval: the program that began the run can go on with it",
};

function End({ run, desk, isLast }: ShownRunEnd): VNode {
  const { view } = run;
  const { figures } = view;
  const took = view.startedAt !== null && view.endedAt !== null ? view.endedAt - view.startedAt : null;
  const answer = view.main.entries.findLast((entry) => entry.type === "message" && !entry.void) as MessageEntry | undefined;
  const text = answer?.parts.map((part) => part.text).join("\n\n");
  const asked = view.main.entries.find((entry) => entry.type === "input");
  const facts = [
    seconds(took),
    figures.time_to_first_text_s !== null && `first text after ${seconds(figures.time_to_first_text_s)}`,
    figures.tokens !== null && `${count(figures.tokens)} tokens`,
    figures.tokens_per_s !== null && `${rate(figures.tokens_per_s)} tokens/s`,
  ].filter(Boolean);
  return (
    <footer class={`end ${view.status}`}>
      {ENDS[view.status] && <strong>{ENDS[view.status]}</strong>}
      <span>{facts.join(" · ")}</span>
      {text && <Copy text={() => text} label="Copy the answer" />}
      {isLast && (view.status === "failed" || view.status === "cancelled") && asked && (
        <button type="button" class="quiet" onClick={() => void desk.send(asked.text)}>
          <Icon name="redo" /> Try again
        </button>
      )}
    </footer>
  );
}

type ShownRunEnd = Pick<ShownRun, "run" | "desk" | "isLast">;
