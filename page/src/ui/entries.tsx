// What was said and done, entry by entry.

import type { ComponentChildren, VNode } from "preact";
import { Code, Markdown } from "../markdown/markdown";
import type { Run } from "../run";
import type {
  Checked,
  DiscardedEntry,
  Entry,
  ErrorEntry,
  HandoffEntry,
  InputEntry,
  MessageEntry,
  ReasoningEntry,
  Strand,
} from "../view";
import { Copy } from "./copy";
import { plural, seconds } from "./format";
import { Icon } from "./icons";
import { stable } from "./stable";
import { ToolCard } from "./tool";

interface Shown {
  run: Run;
  entry: Entry;
  revision: number;
  /** Whether the run goes on. */
  going: boolean;
}

const EntryView = stable<Shown>(
  ({ run, entry, going }) => {
    switch (entry.type) {
      case "input":
        return <Input entry={entry} />;
      case "message":
        return <Message entry={entry} />;
      case "reasoning":
        return <Reasoning entry={entry} />;
      case "tool":
        return <ToolCard run={run} entry={entry} going={going} strand={StrandView} />;
      case "handoff":
        return <Handoff entry={entry} />;
      case "error":
        return <Failure entry={entry} />;
      case "discarded":
        return null;
      case "gap":
        return (
          <p class="note">
            {plural(entry.to_seq - entry.id + 1, "event")} before this {entry.to_seq === entry.id ? "is" : "are"} no
            longer kept.
          </p>
        );
      case "other":
        return <Other kind={entry.kind} raw={entry.raw} />;
      default: // of a newer server
        return <Other kind={(entry as Entry).type} raw={entry} />;
    }
  },
  (a, b) => a.entry === b.entry && a.revision === b.revision && a.going === b.going && a.run === b.run,
);

/** The entries of one line of agents, in order; what was discarded is folded away. */
export function StrandView({ run, strand, going }: { run: Run; strand: Strand; going: boolean }): VNode {
  const shown: ComponentChildren[] = [];
  let agent: string | null = null;
  let folded: Entry[] = [];
  const view = (entry: Entry): VNode => (
    <EntryView key={entry.id} run={run} entry={entry} revision={run.revision(entry.id)} going={going} />
  );
  const unfold = (notice: DiscardedEntry | null): void => {
    if (!folded.length && !notice) return;
    shown.push(
      <Discarded key={`void${notice?.id ?? folded[0]!.id}`} notice={notice} count={folded.length}>
        {folded.map(view)}
      </Discarded>,
    );
    folded = [];
  };
  const show = (check: Checked): void => void shown.push(<Check key={`check${check.seq}`} check={check} />);
  const checks = strand.guardrails.filter((each) => each.outcome !== "passed");
  for (const entry of strand.entries) {
    while (checks.length && checks[0]!.seq < entry.id) show(checks.shift()!);
    if (entry.void) {
      folded.push(entry);
      continue;
    }
    unfold(entry.type === "discarded" ? entry : null);
    if (entry.type === "discarded" || isEmpty(entry)) continue;
    if (entry.type === "input") {
      agent = null;
    } else if (entry.agent && entry.agent !== agent && entry.type !== "error" && entry.type !== "gap") {
      agent = entry.agent;
      shown.push(<AgentName key={`agent${entry.id}`} name={agent} />);
    }
    shown.push(view(entry));
  }
  unfold(null);
  checks.forEach(show);
  return <>{shown}</>;
}

const ABOUT: Record<string, string> = {
  input: "the input",
  added_input: "what was said",
  output: "the answer",
  tool_input: "a call",
  tool_output: "a result",
  stream: "the text",
};
const DECIDED: Record<string, string> = {
  tripped: "stopped the run for",
  rejected: "did not let pass",
  failed: "could not check",
};

/** A guardrail that did not let something pass. */
function Check({ check }: { check: Checked }): VNode {
  const about = ABOUT[check.about] ?? check.about;
  return (
    <p class="check-notice">
      <Icon name="shield" />
      <span>
        The guardrail <strong>{check.name}</strong> {DECIDED[check.outcome] ?? check.outcome} {about}
        {check.tool_name ? ` of ${check.tool_name}` : ""}
        {check.message ? `: “${check.message}”` : "."}
      </span>
    </p>
  );
}

/** Reasoning that is not shown has nothing to fold out. */
function isEmpty(entry: Entry): boolean {
  return entry.type === "reasoning" && entry.state !== "streaming" && !entry.parts.some((part) => part.text);
}

export function AgentName({ name }: { name: string }): VNode {
  return (
    <h2 class="agent-name">
      <span class="avatar" aria-hidden="true">
        {name.trim().charAt(0).toUpperCase() || "?"}
      </span>
      {name}
    </h2>
  );
}

function Input({ entry }: { entry: InputEntry }): VNode {
  return <Bubble text={entry.text} note={entry.added ? "said while it went on" : null} />;
}

/** From this on it may be higher than its bubble, and has to be scrolled. */
const LONG_INPUT = 800;

export function Bubble({ text, note = null, waiting = false }: { text: string; note?: string | null; waiting?: boolean }): VNode {
  return (
    <article class={waiting ? "input waiting" : "input"} aria-label="You said">
      <div class="bubble" {...(text.length > LONG_INPUT ? { tabIndex: 0, role: "group", "aria-label": "All of it" } : {})}>
        {text}
      </div>
      {note && <span class="note">{note}</span>}
    </article>
  );
}

function Message({ entry }: { entry: MessageEntry }): VNode | null {
  const growing = entry.state === "streaming";
  const text = entry.parts.map((part) => part.text).join("\n\n");
  if (!text && !growing) return null;
  return (
    <article class={`message ${entry.state}`} aria-label={`${entry.agent ?? "The agent"} says`} aria-busy={growing}>
      {entry.parts.map((part) =>
        part.type === "refusal" ? (
          <div class="refusal" key={`${part.type}${part.index}`}>
            <Icon name="hand" />
            <Markdown text={part.text} growing={growing} />
          </div>
        ) : (
          <Markdown key={`${part.type}${part.index}`} text={part.text} growing={growing} />
        ),
      )}
      <Sources entry={entry} />
      {entry.state === "incomplete" && !entry.void && (
        <p class="note">
          <Icon name="stop" /> Not finished: what is here was said before it stopped.
        </p>
      )}
      {!growing && (
        <div class="actions">
          <Copy text={() => text} label="Copy message" />
        </div>
      )}
    </article>
  );
}

function Sources({ entry }: { entry: MessageEntry }): VNode | null {
  const found = new Map<string, string>();
  for (const part of entry.parts) {
    for (const note of part.annotations) {
      if (typeof note?.url === "string" && /^https?:\/\//.test(note.url)) found.set(note.url, note.title || note.url);
    }
  }
  if (!found.size) return null;
  return (
    <ul class="sources" aria-label="Sources">
      {[...found].map(([url, title]) => (
        <li key={url}>
          <a href={url} target="_blank" rel="noopener noreferrer nofollow" title={url}>
            {title}
          </a>
        </li>
      ))}
    </ul>
  );
}

function Reasoning({ entry }: { entry: ReasoningEntry }): VNode {
  const growing = entry.state === "streaming";
  const took = entry.at !== null && entry.ended_at !== null ? entry.ended_at - entry.at : null;
  return (
    <details class={growing ? "reasoning growing" : "reasoning"}>
      <summary>
        <Icon name="chevron" />
        {growing ? "Thinking…" : took !== null && took >= 0.1 ? `Thought for ${seconds(took)}` : "Thoughts"}
      </summary>
      <div class="reasoning-text">
        {entry.parts.map((part) => (
          <Markdown key={`${part.type}${part.index}`} text={part.text} growing={growing} />
        ))}
      </div>
    </details>
  );
}

function Handoff({ entry }: { entry: HandoffEntry }): VNode {
  const target = entry.target ?? entry.name.replace(/^transfer_to_/, "").replaceAll("_", " ");
  return (
    <div class={`handoff ${entry.state}`}>
      <span>{entry.source}</span>
      <Icon name="arrow" />
      <span>{target}</span>
      {entry.state === "refused" && <span class="note">not made: {entry.output}</span>}
    </div>
  );
}

function Failure({ entry }: { entry: ErrorEntry }): VNode {
  return (
    <div class="failure" role="group" aria-label="Error">
      <Icon name="alert" />
      <div>
        <strong>{entry.source === "run" ? "The run failed" : "The model's answer broke off"}</strong>
        <p>{entry.message}</p>
        <p class="note">
          {entry.name}
          {entry.code && entry.code !== entry.name ? ` · ${entry.code}` : ""}
          {entry.retryable ? " · may pass if it is tried again" : ""}
        </p>
      </div>
    </div>
  );
}

const REASONS: Record<string, string> = {
  retry: "the model was asked again",
  fallback: "another model took over",
  taken_over: "another worker took over",
};

function Discarded({
  notice,
  count,
  children,
}: {
  notice: DiscardedEntry | null;
  count: number;
  children: ComponentChildren;
}): VNode {
  const what = notice ? (REASONS[notice.reason] ?? notice.reason) : "the model was asked again";
  const words = notice?.next_model ? `${what}: ${notice.next_model}` : what;
  const text = count ? `An attempt does not count: ${words}` : `Began anew: ${words}`;
  const label = (
    <>
      <Icon name="redo" />
      <span>
        {text}
        {notice?.detail && <span class="note"> ({notice.detail})</span>}
      </span>
    </>
  );
  if (!count) return <p class="discarded">{label}</p>;
  return (
    <details class="discarded">
      <summary>{label}</summary>
      <div class="void">{children}</div>
    </details>
  );
}

function Other({ kind, raw }: { kind: string; raw: unknown }): VNode {
  return (
    <details class="other">
      <summary>
        <Icon name="chevron" />
        {kind.replaceAll("_", " ")}
      </summary>
      <Code code={JSON.stringify(raw, null, 2) ?? ""} language="json" />
    </details>
  );
}
