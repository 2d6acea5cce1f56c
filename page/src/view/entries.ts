// What a view holds: the JSON of `RunView.to_json`, field by field. docs/views.md describes it.

export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
export type Fields = Record<string, any>;

export interface Part {
  type: "text" | "refusal" | "summary";
  index: number;
  text: string;
  annotations: any[];
}

interface Base {
  id: number;
  at: number | null;
  agent: string | null;
  void: boolean;
}

interface SaidBase extends Base {
  turn: number;
  attempt: number;
  output_index: number;
  item_id: string | null;
  item_seq: number | null;
  ended_at: number | null;
  cut: boolean;
}

export interface InputEntry extends Base {
  type: "input";
  text: string;
  items: any[] | null;
  added: boolean;
}

export interface MessageEntry extends SaidBase {
  type: "message";
  state: "streaming" | "done" | "incomplete";
  parts: Part[];
}

export interface ReasoningEntry extends SaidBase {
  type: "reasoning";
  state: "streaming" | "done" | "incomplete";
  parts: Part[];
}

export interface Progress {
  seq: number;
  at: number;
  data: any;
}

export interface Answer {
  approved: boolean;
  always: boolean;
  message: string | null;
  at: number | null;
}

export type ToolState =
  | "arguments"
  | "waiting"
  | "running"
  | "done"
  | "failed"
  | "rejected"
  | "cancelled"
  | "unknown";

export interface ToolEntry extends SaidBase {
  type: "tool";
  state: ToolState;
  outcome: string | null;
  kind: string;
  call_id: string | null;
  name: string;
  title: string | null;
  description: string | null;
  arguments: string;
  parsed: any;
  phase: string | null;
  progress: Progress[];
  progress_count: number;
  output: string | null;
  content: any[] | null;
  answer: Answer | null;
  started_at: number | null;
  nested: Strand | null;
}

export interface HandoffEntry extends SaidBase {
  type: "handoff";
  state: "requested" | "done" | "refused";
  call_id: string | null;
  name: string;
  arguments: string;
  source: string | null;
  target: string | null;
  output: string | null;
}

export interface OtherEntry extends SaidBase {
  type: "other";
  kind: string;
  raw: any;
}

export interface ErrorEntry extends Base {
  type: "error";
  source: "model" | "run";
  name: string;
  message: string;
  code: string | null;
  retryable: boolean;
}

export interface DiscardedEntry extends Base {
  type: "discarded";
  from_seq: number;
  reason: string;
  detail: string | null;
  next_model: string | null;
}

export interface GapEntry extends Base {
  type: "gap";
  to_seq: number;
}

export type Said = MessageEntry | ReasoningEntry | ToolEntry | HandoffEntry | OtherEntry;
export type Entry = InputEntry | Said | ErrorEntry | DiscardedEntry | GapEntry;

export interface StartedAgent {
  seq: number;
  at: number;
  name: string;
  previous: string | null;
}

export interface Turn {
  number: number;
  agent: string | null;
  attempt: number;
  state: "open" | "completed" | "incomplete" | "failed" | "unknown";
  model: string | null;
  response_id: string | null;
  started_at: number;
  first_text_at: number | null;
  last_text_at: number | null;
  text_deltas: number;
  ended_at: number | null;
  usage: Record<string, number> | null;
}

/** A guardrail has decided. */
export interface Checked {
  seq: number;
  at: number;
  agent: string | null;
  name: string;
  about: string;
  outcome: string;
  tool_name: string | null;
  call_id: string | null;
  duration_s: number;
  delay_s: number;
  delay_max_s: number;
  message: string | null;
}

export interface Strand {
  agent: string | null;
  agents: StartedAgent[];
  entries: Entry[];
  turns: Turn[];
  cut: boolean;
  guardrails: Checked[];
}

export interface RunError {
  type: string;
  message: string;
  code: string | null;
  retryable: boolean;
}

export type Status = "new" | "running" | "completed" | "failed" | "cancelled" | "interrupted";

/** One event of a run, as the server sends it. */
export interface RunEvent {
  v: number;
  run: string;
  seq: number;
  at: number;
  kind: string;
  agent: string | null;
  attempt: number;
  path: string[];
  data: Fields;
}

const SAID = new Set(["message", "reasoning", "tool", "handoff", "other"]);

export function isSaid(entry: Entry): entry is Said {
  return SAID.has(entry.type);
}

/** A new entry of something that a model says, all fields empty. */
export function newSaid(type: Said["type"], id: number, at: number | null, agent: string | null): Said {
  const base = {
    id,
    at,
    agent,
    void: false,
    turn: 0,
    attempt: 0,
    output_index: 0,
    item_id: null,
    item_seq: null,
    ended_at: null,
    cut: false,
  };
  switch (type) {
    case "message":
    case "reasoning":
      return { type, ...base, state: "streaming", parts: [] };
    case "tool":
      return {
        type,
        ...base,
        state: "arguments",
        outcome: null,
        kind: "function_call",
        call_id: null,
        name: "",
        title: null,
        description: null,
        arguments: "",
        parsed: null,
        phase: null,
        progress: [],
        progress_count: 0,
        output: null,
        content: null,
        answer: null,
        started_at: null,
        nested: null,
      };
    case "handoff":
      return {
        type,
        ...base,
        state: "requested",
        call_id: null,
        name: "",
        arguments: "",
        source: null,
        target: null,
        output: null,
      };
    case "other":
      return { type, ...base, kind: "", raw: null };
  }
}

export function newStrand(): Strand {
  return { agent: null, agents: [], entries: [], turns: [], cut: false, guardrails: [] };
}
