// A call of a tool: its arguments as they grow, what it reports, what came of it, and who has to allow it.

import type { ComponentType, VNode } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Code } from "../markdown/markdown";
import { inlinePicture } from "../markdown/text";
import type { Run } from "../run";
import type { Strand, ToolEntry, ToolState } from "../view";
import { useDesk } from "./context";
import { Copy } from "./copy";
import { count, plural, seconds, short } from "./format";
import { Icon, type IconName } from "./icons";

const WORDS: Record<ToolState, string> = {
  arguments: "being called",
  waiting: "waits for you",
  running: "running",
  done: "done",
  failed: "failed",
  rejected: "refused",
  cancelled: "cancelled",
  unknown: "outcome unknown",
};
const ICONS: Partial<Record<ToolState, IconName>> = {
  waiting: "hand",
  done: "check",
  failed: "alert",
  rejected: "close",
  cancelled: "stop",
  unknown: "alert",
};
const SHOWN_REPORTS = 6;
/** Of a result; a browser would take seconds for all of a very long one. */
const LONGEST = 50_000;

interface Nested {
  run: Run;
  strand: Strand;
  going: boolean;
}

export function ToolCard({
  run,
  entry,
  going,
  strand: StrandView,
}: {
  run: Run;
  entry: ToolEntry;
  going: boolean;
  strand: ComponentType<Nested>;
}): VNode {
  const [chosen, choose] = useState<boolean | null>(null);
  const isActive = ["arguments", "waiting", "running"].includes(entry.state) && going;
  const open = chosen ?? isActive;
  const { state } = entry;
  const words = entry.outcome === "timed_out" ? "timed out" : !going && state === "waiting" ? "was not answered" : WORDS[state];
  const icon = ICONS[state];
  const name = entry.title ?? (entry.name || "tool");
  return (
    <section class={`tool state-${state}`} aria-label={`Tool ${name}, ${words}`} id={`call-${entry.id}`}>
      <button type="button" class="tool-head" aria-expanded={open} onClick={() => choose(!open)}>
        <span class="tool-mark">{icon ? <Icon name={icon} /> : <span class="spinner" aria-hidden="true" />}</span>
        <span class="tool-name">{name}</span>
        {!open && <span class="tool-brief">{briefly(entry)}</span>}
        <span class="tool-state">{words}</span>
        <Duration entry={entry} run={run} going={going} />
        <Icon name="chevron" />
      </button>
      {open && (
        <div class="tool-body">
          {entry.description && <p class="note">{entry.description}</p>}
          <Arguments entry={entry} />
          <Reports entry={entry} isActive={isActive} />
          {entry.nested && (
            <div class="nested" role="group" aria-label={`${entry.nested.agent ?? name}, within ${name}`}>
              <StrandView run={run} strand={entry.nested} going={isActive} />
            </div>
          )}
          {entry.state === "waiting" && going && <Approval run={run} entry={entry} />}
          <Answered entry={entry} />
          <Output entry={entry} />
        </div>
      )}
      {!open && entry.output && (
        <p class="tool-preview" aria-hidden="true">
          {short(entry.output.replace(/[*`]+/g, ""), 160)}
        </p>
      )}
    </section>
  );
}

/** The arguments on the line of the name. */
function briefly(entry: ToolEntry): string {
  const given = entry.parsed;
  if (given && typeof given === "object" && !Array.isArray(given)) {
    return Object.values(given)
      .map((value) => short(value, 120))
      .join(", ");
  }
  return short(entry.arguments, 120);
}

function Duration({ entry, run, going }: { entry: ToolEntry; run: Run; going: boolean }): VNode | null {
  if (entry.started_at === null) return null;
  if (entry.ended_at !== null) return <span class="tool-time">{seconds(entry.ended_at - entry.started_at)}</span>;
  return going ? <Elapsed since={entry.started_at} now={run.view.at ?? entry.started_at} /> : null;
}

/** By the server's clock as far as that was seen, then by the page's. */
export function Elapsed({ since, now }: { since: number; now: number }): VNode {
  const [begun] = useState(() => performance.now() / 1000 - (now - since));
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((each) => each + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  const passed = Math.max(Math.floor(performance.now() / 1000 - begun), 0);
  return <span class="tool-time">{passed ? seconds(passed) : ""}</span>;
}

function Arguments({ entry }: { entry: ToolEntry }): VNode | null {
  const given = entry.parsed;
  if (given === null || given === undefined) {
    if (!entry.arguments) return null;
    return (
      <pre class={entry.state === "arguments" ? "arguments growing" : "arguments"} aria-label="Arguments">
        {entry.arguments}
      </pre>
    );
  }
  if (typeof given !== "object" || Array.isArray(given)) return <Data value={given} />;
  const fields = Object.entries(given);
  if (!fields.length) return null;
  if (fields.some(([, value]) => typeof value === "object" && value !== null)) return <Data value={given} />;
  return (
    <dl class="fields" aria-label="Arguments">
      {fields.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{typeof value === "string" ? value : JSON.stringify(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

function Data({ value, title = "Arguments" }: { value: unknown; title?: string }): VNode {
  return <Code code={JSON.stringify(value, null, 2)} language="json" title={title} />;
}

function Reports({ entry, isActive }: { entry: ToolEntry; isActive: boolean }): VNode | null {
  const latest = entry.progress.at(-1);
  if (!latest) return null;
  const share = shareOf(latest.data);
  const shown = entry.progress.slice(-SHOWN_REPORTS);
  const left = entry.progress_count - shown.length;
  return (
    <div class="reports">
      {share !== null && (
        <progress max={1} value={share} aria-label={`Progress of ${entry.name}`}>
          {Math.round(share * 100)} %
        </progress>
      )}
      <ul>
        {left > 0 && <li class="note">{plural(left, "report")} before</li>}
        {shown.map((report, index) => (
          <li key={report.seq} class={isActive && index === shown.length - 1 ? "latest" : undefined}>
            {reportText(report.data)}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** How much is done, from 0 to 1, in the forms in which tools tell it. */
function shareOf(data: any): number | null {
  const within = (value: number): number => Math.min(Math.max(value, 0), 1);
  if (typeof data !== "object" || data === null) return null;
  if (typeof data.percent === "number") return within(data.percent / 100);
  const done = data.done ?? data.current ?? data.progress;
  if (typeof done !== "number") return null;
  if (typeof data.total === "number" && data.total > 0) return within(done / data.total);
  return done <= 1 ? within(done) : null;
}

function reportText(data: any): string {
  if (typeof data === "string") return data;
  const words = data?.message ?? data?.status ?? data?.text;
  if (typeof words === "string") return words;
  const share = shareOf(data);
  return share !== null ? `${Math.round(share * 100)} %` : short(data, 200);
}

function Output({ entry }: { entry: ToolEntry }): VNode | null {
  if (entry.output === null) return null;
  const pictures = (entry.content ?? []).map((part) => inlinePicture(part?.image_url)).filter(Boolean) as string[];
  const data = structured(entry.output);
  return (
    <div class="output">
      {data ? (
        <Data value={data} title="Result" />
      ) : (
        <>
          <div class="output-head">
            <span>Result</span>
            {entry.output && <Copy text={() => entry.output ?? ""} label="Copy result" />}
          </div>
          {entry.output ? (
            <pre tabIndex={0} role="group" aria-label="Result">
              {entry.output.slice(0, LONGEST)}
            </pre>
          ) : (
            <p class="note">An empty text.</p>
          )}
        </>
      )}
      {!data && entry.output.length > LONGEST && (
        <p class="note">{count(entry.output.length - LONGEST)} more characters: copying gives all of them.</p>
      )}
      {pictures.map((source, index) => (
        <img key={index} src={source} alt={`Picture ${index + 1} of the result`} />
      ))}
    </div>
  );
}

function structured(text: string): unknown {
  if (text.length > LONGEST || !/^\s*[{[]/.test(text)) return null;
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function Answered({ entry }: { entry: ToolEntry }): VNode | null {
  const { answer } = entry;
  if (!answer) return null;
  const what = answer.approved ? "Approved" : "Refused";
  return (
    <p class="note">
      {what}
      {answer.always ? " for all calls of this tool in the run" : ""}
      {answer.message ? `: “${answer.message}”` : "."}
    </p>
  );
}

function Approval({ run, entry }: { run: Run; entry: ToolEntry }): VNode {
  const desk = useDesk();
  const [always, setAlways] = useState(false);
  const [message, setMessage] = useState("");
  const [sent, setSent] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  useLayoutEffect(() => {
    const element = form.current!;
    // Who was here when it was answered is not sent to the top of the page.
    return () => {
      if (!element.contains(document.activeElement) && document.activeElement !== document.body) return;
      document.querySelector<HTMLElement>(`#call-${entry.id} .tool-head`)?.focus({ preventScroll: true });
    };
  }, []);
  const answer = async (approve: boolean): Promise<void> => {
    setSent(true);
    await desk.answer(run, entry, approve, always, approve ? "" : message);
    setSent(false);
  };
  return (
    <form
      class="approval"
      ref={form}
      aria-label={`Allow ${entry.name}?`}
      onSubmit={(event) => {
        event.preventDefault();
        void answer(true);
      }}
    >
      <p>
        <strong>{entry.agent ?? "The agent"}</strong> wants to call <code>{entry.name}</code>. Allow it?
      </p>
      <label class="field">
        <span>If you refuse: what the agent should know</span>
        <input
          type="text"
          value={message}
          placeholder="Optional"
          autocomplete="off"
          onInput={(event) => setMessage(event.currentTarget.value)}
        />
      </label>
      <div class="row">
        <button type="submit" class="primary" disabled={sent}>
          Approve
        </button>
        <button type="button" disabled={sent} onClick={() => void answer(false)}>
          Reject
        </button>
        <label class="check">
          <input type="checkbox" checked={always} onChange={(event) => setAlways(event.currentTarget.checked)} />
          Always, for this tool
        </label>
      </div>
    </form>
  );
}
