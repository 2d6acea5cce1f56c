// A run as an interface shows it: a pure fold of its numbered events. The twin of runstream/view/run_view.py: the same
// events give the same JSON, which tests/unit/server/test_page_view.py compares at every event.

import {
  newSaid,
  newStrand,
  type Entry,
  type RunError,
  type RunEvent,
  type Status,
  type Strand,
  type ToolEntry,
  type Turn,
} from "./entries";
import { DELTAS, type Book } from "./response";
import { StrandFold } from "./strand";

/** Stands among the ids of what changed for what belongs to no entry. */
export const HEAD = 0;

export interface Figures {
  time_to_first_text_s: number | null;
  text_deltas: number;
  text_deltas_per_s: number | null;
  events: number;
  turns: number;
  tokens: number | null;
  tokens_per_s: number | null;
}

export class RunView {
  runId: string | null = null;
  status: Status = "new";
  /** How many runs have to begin before this one may; 0 where it does not wait for its place. */
  queuePosition = 0;
  /** Seq of the newest event: what to go on after. */
  lastSeq = 0;
  missed = 0;
  startedAt: number | null = null;
  at: number | null = null;
  endedAt: number | null = null;
  finalOutput: any = null;
  error: RunError | null = null;
  private endUsage: Record<string, number> | null = null;
  private readonly book: Book = { index: new Map(), pending: [], keepVoid: true };
  private strands = new Map<string, StrandFold>();
  private mainFold: StrandFold;

  constructor() {
    this.mainFold = new StrandFold(this.book, newStrand());
    this.strands.set("", this.mainFold);
  }

  /** The run's own agents, entries and turns. */
  get main(): Strand {
    return this.mainFold.shown;
  }

  get pending(): ToolEntry[] {
    return this.book.pending.map((id) => this.book.index.get(id) as ToolEntry);
  }

  get ended(): boolean {
    return this.status !== "new" && this.status !== "running";
  }

  get usage(): Record<string, number> | null {
    if (this.endUsage) return this.endUsage;
    const total: Record<string, number> = {};
    for (const turn of this.main.turns) {
      for (const [name, count] of Object.entries(turn.usage ?? {})) total[name] = (total[name] ?? 0) + count;
    }
    return Object.keys(total).length ? total : null;
  }

  get figures(): Figures {
    return figuresOf(this.startedAt, this.main.turns, this.lastSeq - this.missed, this.usage?.total_tokens || null);
  }

  find(id: number): Entry | undefined {
    return this.book.index.get(id);
  }

  /** Take in the next event; returns the ids of what it changed. One that was seen before changes nothing. */
  apply(event: RunEvent): number[] {
    if (event.seq <= this.lastSeq) return [];
    this.runId ??= event.run;
    const lost = event.seq > this.lastSeq + 1 ? this.noteGap(event.seq) : [];
    this.lastSeq = event.seq;
    this.at = event.at;
    if (this.status === "new") this.status = "running";
    const strand = this.strands.get(keyOf(event.path)) ?? this.openStrand(event, event.path);
    const changed = this.dispatch(event, strand);
    if (strand.voided.length) {
      changed.push(...strand.voided);
      strand.voided = [];
    }
    return [...lost, ...changed];
  }

  private dispatch(event: RunEvent, strand: StrandFold): number[] {
    const isTop = event.path.length === 0;
    switch (event.kind) {
      case "model":
        return event.data.type in DELTAS ? strand.delta(event) : strand.model(event);
      case "item": {
        const changed = strand.item(event);
        if (event.data.type === "tool_call_output_item") this.closeNested(event, changed);
        return changed;
      }
      case "agent.start":
        return strand.agentStarted(event);
      case "approval.resolved":
        return strand.answered(event.data, event.at, event.agent);
      case "attempt.discarded":
        return strand.discarded(event);
      case "input.added":
        return strand.input(event.data.items, event, true);
      case "guardrail":
        return strand.checked(event);
      case "tool.progress":
        return strand.reported(event);
      case "run.queued":
        if (!isTop) return [];
        this.queuePosition = event.data.position;
        return [HEAD];
      case "run.start":
        return isTop ? this.start(event) : [];
      case "run.end":
        return isTop ? this.end(event) : [];
    }
    return [];
  }

  private noteGap(seq: number): number[] {
    const first = this.lastSeq + 1;
    this.missed += seq - first;
    this.queuePosition = 0;
    for (const strand of this.strands.values()) strand.loseTrack();
    this.mainFold.add({ type: "gap", id: first, at: null, agent: null, void: false, to_seq: seq - 1 });
    return [first];
  }

  /** The strand of a nested agent, in the entry of the call that runs it. */
  private openStrand(event: RunEvent, path: string[]): StrandFold {
    const outerPath = path.slice(0, -1);
    const callId = path.at(-1)!;
    const outer = this.strands.get(keyOf(outerPath)) ?? this.openStrand(event, outerPath);
    let card = outer.call(callId);
    if (!card) {
      // Its beginning was not seen.
      card = newSaid("tool", Math.min(0, ...this.book.index.keys()) - 1, null, null) as ToolEntry;
      card.call_id = callId;
      card.state = "running";
      card.cut = true;
      card.item_seq = event.seq;
      outer.add(card);
      outer.expectOutput(card);
    }
    card.nested ??= { ...newStrand(), cut: card.cut };
    const strand = new StrandFold(this.book, card.nested, [card.id, ...outer.parents]);
    strand.resume();
    this.strands.set(keyOf(path), strand);
    return strand;
  }

  /** A call has its output: what ran under it is over. Its id may be used again, for a strand of its own. */
  private closeNested(event: RunEvent, changed: number[]): void {
    for (const id of changed.slice(0, 2)) {
      const card = this.book.index.get(id);
      if (card?.type !== "tool" || !card.nested || card.output === null) continue;
      const over = keyOf([...event.path, card.call_id ?? ""]);
      for (const [key, strand] of this.strands) {
        if (!key.startsWith(over)) continue;
        this.strands.delete(key);
        strand.ended("cancelled", event.at);
      }
    }
  }

  private start(event: RunEvent): number[] {
    this.startedAt = event.at;
    return [HEAD, ...this.mainFold.input(event.data.input, event, false)];
  }

  private end(event: RunEvent): number[] {
    const { status, final_output, error, usage } = event.data;
    this.status = status;
    this.queuePosition = 0;
    this.endedAt = event.at;
    this.finalOutput = final_output ?? null;
    this.error = error ?? null;
    this.endUsage = usage ?? null;
    const changed = [HEAD];
    for (const strand of this.strands.values()) changed.push(...strand.ended(status, event.at));
    if (status !== "interrupted") this.book.pending = [];
    if (error) {
      this.mainFold.add({
        type: "error",
        id: event.seq,
        at: event.at,
        agent: event.agent,
        void: false,
        source: "run",
        name: error.type,
        message: error.message,
        code: error.code,
        retryable: error.retryable,
      });
      changed.push(event.seq);
    }
    return changed;
  }

  // The stored form.

  toJSON(): Record<string, any> {
    const { agent, agents, entries, turns, cut, guardrails } = this.main;
    return {
      version: 1,
      run_id: this.runId,
      status: this.status,
      last_seq: this.lastSeq,
      missed: this.missed,
      started_at: this.startedAt,
      at: this.at,
      ended_at: this.endedAt,
      final_output: this.finalOutput,
      error: this.error,
      usage: this.usage,
      keep_void: this.book.keepVoid,
      sparse: false,
      pending_approvals: this.book.pending,
      agent,
      agents,
      entries,
      turns,
      cut,
      guardrails,
      queue_position: this.queuePosition,
      figures: this.figures,
    };
  }

  /** The view of a snapshot, to go on with. Takes the data over. */
  static from(data: Record<string, any>): RunView {
    const view = new RunView();
    view.runId = data.run_id;
    view.status = data.status;
    view.queuePosition = data.queue_position ?? 0;
    view.lastSeq = data.last_seq;
    view.missed = data.missed;
    view.startedAt = data.started_at;
    view.at = data.at;
    view.endedAt = data.ended_at;
    view.finalOutput = data.final_output;
    view.error = data.error;
    if (view.endedAt !== null) view.endUsage = data.usage;
    view.book.pending = data.pending_approvals;
    view.strands = new Map();
    const { agent, agents, entries, turns, cut, guardrails } = data as Strand;
    view.restore([], { agent, agents, entries, turns, cut, guardrails: guardrails ?? [] }, []);
    view.mainFold = view.strands.get("")!;
    return view;
  }

  private restore(path: string[], shown: Strand, parents: number[]): void {
    const strand = new StrandFold(this.book, shown, parents);
    this.strands.set(keyOf(path), strand);
    for (const entry of shown.entries) {
      this.book.index.set(entry.id, entry);
      if (entry.type !== "tool" || !entry.nested) continue;
      const inner = [...path, entry.call_id ?? ""];
      this.restore(inner, entry.nested, [entry.id, ...parents]);
      if (entry.output === null) continue;
      for (const key of [...this.strands.keys()]) if (key.startsWith(keyOf(inner))) this.strands.delete(key);
    }
    strand.resume();
  }
}

/** A path as one string; that of what lies deeper begins with it. */
function keyOf(path: string[]): string {
  return path.map((callId) => `${callId}\n`).join("");
}

/** What a run amounts to in numbers: the twin of runstream/view/figures.py. */
function figuresOf(startedAt: number | null, turns: Turn[], events: number, tokens: number | null): Figures {
  const first = turns.find((turn) => turn.first_text_at !== null)?.first_text_at ?? null;
  const last = turns.findLast((turn) => turn.last_text_at !== null)?.last_text_at ?? null;
  const took = first === null || last === null ? 0 : last - first;
  let deltas = 0;
  let written = 0;
  let writing = 0;
  for (const turn of turns) {
    deltas += turn.text_deltas;
    if (turn.usage && turn.ended_at !== null) {
      written += turn.usage.output_tokens ?? 0;
      writing += turn.ended_at - turn.started_at;
    }
  }
  return {
    time_to_first_text_s: startedAt === null || first === null ? null : first - startedAt,
    text_deltas: deltas,
    text_deltas_per_s: took > 0 ? (deltas - 1) / took : null,
    events,
    turns: turns.length,
    tokens,
    tokens_per_s: writing > 0 ? written / writing : null,
  };
}
