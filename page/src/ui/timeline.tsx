// Where the time went: model calls, tools, agents within them, and the run's figures.

import type { VNode } from "preact";
import { request } from "../api";
import type { Desk } from "../desk";
import type { Run } from "../run";
import { FrameReader } from "../sse";
import type { Strand } from "../view";
import { count, rate, seconds } from "./format";
import { Icon } from "./icons";

interface Row {
  key: string;
  kind: "model" | "tool" | "wait" | "check" | "mark";
  label: string;
  state: string;
  /** When the model was asked: the log tells only when it began to answer, so this is when all before it was done. */
  asked?: number;
  from: number;
  to: number | null;
  /** When the first text came. */
  mark: number | null;
  depth: number;
  detail: string;
}

export function Timeline({ desk, run }: { desk: Desk; run: Run | undefined }): VNode {
  return (
    <aside class="timeline" aria-label="Timeline">
      <header>
        <h2>Timeline</h2>
        <button type="button" class="quiet" aria-label="Close the timeline" onClick={() => desk.closeTimeline()}>
          <Icon name="close" />
        </button>
      </header>
      {run && run.view.startedAt !== null ? <Chart run={run} start={run.view.startedAt} /> : <p class="note">Nothing has run yet.</p>}
    </aside>
  );
}

function Chart({ run, start }: { run: Run; start: number }): VNode {
  const { view } = run;
  const { figures } = view;
  const end = Math.max(view.endedAt ?? view.at ?? start, start + 0.001);
  const span = end - start;
  const rows = rowsOf(view.main, start, 0);
  const at = (time: number): string => `${(((time - start) / span) * 100).toFixed(2)}%`;
  const share = (from: number, to: number): string => `${(((to - from) / span) * 100).toFixed(2)}%`;
  const values: [string, string][] = [
    ["First text", seconds(figures.time_to_first_text_s)],
    ["Tokens/s", rate(figures.tokens_per_s)],
    ["Tokens", count(figures.tokens)],
    [run.going ? "So far" : "Took", seconds(span)],
    ["Model calls", count(figures.turns)],
    ["Pieces of text", count(figures.text_deltas)],
    ["Pieces/s", rate(figures.text_deltas_per_s)],
    ["Events", count(figures.events)],
  ];
  return (
    <>
      <dl class="figures">
        {values.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <ol class="rows" aria-label="What took how long">
        {rows.map((row) => {
          const to = row.to ?? end;
          return (
            <li key={row.key} class={`${row.kind} state-${row.state}`} style={{ "--depth": row.depth }}>
              <div class="row-label">
                <span>{row.label}</span>
                <span class="row-time">{row.kind === "mark" ? `at ${seconds(row.from - start)}` : seconds(to - (row.asked ?? row.from))}</span>
              </div>
              <div class="track" title={row.detail}>
                {row.asked !== undefined && (
                  <span class="bar asked" style={{ left: at(row.asked), width: share(row.asked, row.from) }} />
                )}
                <span class="bar" style={{ left: at(row.from), width: `max(3px, ${share(row.from, to)})` }} />
                {row.mark !== null && <span class="first" style={{ left: at(row.mark) }} title="first text" />}
              </div>
            </li>
          );
        })}
      </ol>
      <div class="axis" aria-hidden="true">
        <span>0</span>
        <span>{seconds(span / 2)}</span>
        <span>{seconds(span)}</span>
      </div>
      <p class="note legend">
        {KEYS.map(([kind, words]) => (
          <span key={kind}>
            <span class={`key ${kind}`} /> {words}
          </span>
        ))}
      </p>
      {view.ended && (
        <button type="button" class="download" onClick={() => void download(run)}>
          <Icon name="down" /> All events, as JSON lines
        </button>
      )}
    </>
  );
}

const KEYS = [
  ["model", "model"],
  ["asked", "before its answer"],
  ["tool", "tool, guardrail"],
  ["wait", "waits for a person"],
  ["first", "first text"],
];

async function download(run: Run): Promise<void> {
  const response = await request("GET", `runs/${run.id}/events`);
  const frames = new FrameReader().feed(new Uint8Array(await response.arrayBuffer()));
  const lines = frames.filter((frame) => frame.event === "message").map((frame) => `${frame.data}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = `${run.id}.jsonl`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function rowsOf(strand: Strand, start: number, depth: number, begun = start): Row[] {
  const rows: Row[] = [];
  const ends = [begun, ...[...strand.turns, ...strand.entries].map((each) => ("ended_at" in each && each.ended_at) || 0)];
  for (const turn of strand.turns) {
    const tokens = turn.usage?.output_tokens;
    const detail = [turn.model, tokens !== undefined && `${count(tokens)} tokens`, turn.attempt > 1 && `attempt ${turn.attempt}`];
    rows.push({
      key: `${depth}-turn${turn.number}-${turn.started_at}`,
      kind: "model",
      label: `${turn.agent ?? "Model"}${turn.attempt > 1 ? ` (attempt ${turn.attempt})` : ""}`,
      state: turn.state,
      asked: Math.max(...ends.filter((end) => end <= turn.started_at), start),
      from: turn.started_at,
      to: turn.ended_at,
      mark: turn.first_text_at,
      depth,
      detail: detail.filter(Boolean).join(" · "),
    });
  }
  for (const entry of strand.entries) {
    if (entry.at === null || entry.at < start) continue;
    if (entry.type === "tool") {
      const answered = entry.answer?.at ?? null;
      const waited = entry.state === "waiting" || answered !== null;
      const key = `tool${entry.id}`;
      const base = { label: entry.title ?? entry.name, state: entry.state, mark: null, depth, detail: entry.state };
      if (waited) {
        rows.push({ ...base, key: `${key}wait`, kind: "wait", label: `${base.label} waits`, from: entry.at, to: answered });
      }
      if (entry.started_at !== null) {
        rows.push({ ...base, key, kind: "tool", from: entry.started_at, to: entry.ended_at });
      }
      if (entry.nested) rows.push(...rowsOf(entry.nested, start, depth + 1, entry.started_at ?? entry.at));
    } else if (entry.type === "handoff" && entry.target) {
      const label = `→ ${entry.target}`;
      const from = entry.ended_at ?? entry.at;
      rows.push({ key: `mark${entry.id}`, kind: "mark", label, state: entry.state, from, to: from, mark: null, depth, detail: label });
    }
  }
  for (const check of strand.guardrails) {
    rows.push({
      key: `check${check.seq}`,
      kind: "check",
      label: check.name,
      state: check.outcome,
      from: Math.max(check.at - check.duration_s, start),
      to: check.at,
      mark: null,
      depth,
      detail: `guardrail: ${check.outcome}`,
    });
  }
  return rows.sort((a, b) => a.from - b.from);
}
