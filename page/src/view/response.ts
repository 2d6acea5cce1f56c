// The model's stream, folded into the entries of one strand: the twin of runstream/view/response_fold.py.

import {
  isSaid,
  newSaid,
  type Entry,
  type ErrorEntry,
  type Fields,
  type MessageEntry,
  type Part,
  type ReasoningEntry,
  type RunEvent,
  type Said,
  type Strand,
  type ToolEntry,
  type Turn,
} from "./entries";
import { contentParts, dumps, outputText, readText, reasoningParts, type GivenPart } from "./texts";

type Growing = [type: "message" | "reasoning" | "tool", part: Part["type"] | "", index: string | null];

/** What grows: the entry, the type of its part, and the field with the part's number. */
export const DELTAS: Record<string, Growing> = {
  "response.output_text.delta": ["message", "text", "content_index"],
  "response.refusal.delta": ["message", "refusal", "content_index"],
  "response.reasoning_summary_text.delta": ["reasoning", "summary", "summary_index"],
  "response.reasoning_text.delta": ["reasoning", "text", "content_index"],
  "response.function_call_arguments.delta": ["tool", "", null],
  "response.mcp_call_arguments.delta": ["tool", "", null],
  "response.code_interpreter_call_code.delta": ["tool", "", null],
  "response.custom_tool_call_input.delta": ["tool", "", null],
};
const DONE: Record<string, [delta: string, field: string]> = {
  "response.output_text.done": ["response.output_text.delta", "text"],
  "response.refusal.done": ["response.refusal.delta", "refusal"],
  "response.reasoning_summary_text.done": ["response.reasoning_summary_text.delta", "text"],
  "response.reasoning_text.done": ["response.reasoning_text.delta", "text"],
  "response.function_call_arguments.done": ["response.function_call_arguments.delta", "arguments"],
  "response.mcp_call_arguments.done": ["response.mcp_call_arguments.delta", "arguments"],
  "response.code_interpreter_call_code.done": ["response.code_interpreter_call_code.delta", "code"],
  "response.custom_tool_call_input.done": ["response.custom_tool_call_input.delta", "input"],
};
const ENDS: Record<string, "completed" | "incomplete" | "failed"> = {
  "response.completed": "completed",
  "response.incomplete": "incomplete",
  "response.failed": "failed",
  error: "failed",
};
const TOOL_KINDS = new Set(["mcp_list_tools", "mcp_approval_request"]);
const ARGUMENTS = ["arguments", "input", "code", "action", "queries"];
const OUTPUTS = ["output", "outputs", "results", "result"];
const HOSTED_STATES: Record<string, "done" | "failed"> = { completed: "done", failed: "failed", incomplete: "failed" };

/** What all strands of a view share. */
export interface Book {
  index: Map<number, Entry>;
  /** Ids of the calls that wait for a person's approval. */
  pending: number[];
  keepVoid: boolean;
}

/** Model events of one path, in their order. All methods return the ids of what was changed. */
export class ResponseFold {
  /** What the response at hand has begun, by its place in the output. */
  protected open = new Map<number, Said>();
  /** What the latest response has begun and no item event was about yet, in its order. */
  protected unclaimed: Said[] = [];
  /** Ids of what became void with the event at hand. */
  voided: number[] = [];

  constructor(
    readonly book: Book,
    readonly shown: Strand,
    readonly parents: number[] = [],
  ) {}

  /** Find out from the entries where the strand stands. */
  resume(): void {
    const turn = this.shown.turns.at(-1);
    if (!turn) return;
    for (const entry of this.shown.entries) {
      if (!isSaid(entry) || entry.turn !== turn.number || entry.void || entry.item_seq !== null) continue;
      this.unclaimed.push(entry);
      if (turn.state === "open") this.open.set(entry.output_index, entry);
    }
  }

  protected changed(...entries: Entry[]): number[] {
    return [...entries.map((entry) => entry.id), ...this.parents];
  }

  add(entry: Entry): void {
    this.shown.entries.push(entry);
    this.book.index.set(entry.id, entry);
  }

  // Turns.

  private turn(event: RunEvent): Turn {
    const turns = this.shown.turns;
    let turn = turns.at(-1);
    if (!turn || (turn.state !== "open" && turn.state !== "failed")) {
      turn = {
        number: turns.length + 1,
        agent: event.agent,
        attempt: event.attempt,
        state: "open",
        model: null,
        response_id: null,
        started_at: event.at,
        first_text_at: null,
        last_text_at: null,
        text_deltas: 0,
        ended_at: null,
        usage: null,
      };
      turns.push(turn);
      this.open = new Map();
      this.unclaimed = [];
    } else if ((turn.attempt !== event.attempt || turn.state !== "open") && !this.shown.cut) {
      this.beginAgain(turn, event);
    }
    return turn;
  }

  /** The call is made again: what its last attempt left behind, if it was not discarded, counts no more. */
  private beginAgain(turn: Turn, event: RunEvent): void {
    this.makeVoid(
      this.unclaimed.filter((entry) => !entry.void),
      event.at,
    );
    turn.attempt = event.attempt;
    turn.state = "open";
    turn.ended_at = turn.usage = null;
  }

  /** These entries, and whatever the response at hand has begun, count as never said. */
  protected makeVoid(entries: Entry[], at: number): void {
    this.open = new Map();
    this.unclaimed = [];
    const { book } = this;
    for (const entry of entries) {
      entry.void = true;
      this.voided.push(entry.id);
      if ((entry.type === "message" || entry.type === "reasoning") && entry.state === "streaming") {
        entry.state = "incomplete";
        entry.ended_at = at;
      } else if (entry.type === "tool" && ["arguments", "waiting", "running"].includes(entry.state)) {
        entry.state = "cancelled";
        entry.ended_at = at;
        book.pending = book.pending.filter((id) => id !== entry.id);
      }
    }
    if (entries.length && !book.keepVoid) {
      this.shown.entries = this.shown.entries.filter((entry) => !entry.void);
      for (const entry of entries) forget(book, entry);
    }
  }

  /** Events that come next were not seen: what is open may have ended, and another response begun. */
  loseTrack(): void {
    this.shown.cut = true;
    for (const entry of this.unclaimed) entry.cut = true;
  }

  // Model events.

  model(event: RunEvent): number[] {
    const { data } = event;
    const kind: string = data.type;
    if (kind === "response.created") return this.created(event);
    const turn = this.turn(event);
    if (kind in ENDS) return this.end(turn, event, ENDS[kind]!);
    if (kind in DONE) return this.done(event, ...DONE[kind]!);
    if (kind === "response.output_item.added") return this.outputItem(event, false);
    if (kind === "response.output_item.done") return this.outputItem(event, true);
    if (kind === "response.output_text.annotation.added") {
      const [entry, part] = this.part(event, ["message", "text", "content_index"]);
      part?.annotations.push(data.annotation ?? null);
      return this.changed(entry);
    }
    const entry = this.open.get(data.output_index || 0);
    return entry?.type === "tool" ? this.phase(entry, kind, event.at) : [];
  }

  private created(event: RunEvent): number[] {
    const last = this.shown.turns.at(-1);
    if (last?.state === "open") {
      if (this.shown.cut) {
        last.state = "unknown"; // its end was not seen
        this.closeTexts(event.at, "incomplete");
      } else if (this.unclaimed.length) {
        this.beginAgain(last, event);
      }
    }
    this.shown.cut = false;
    const turn = this.turn(event);
    turn.model = readText(event.data.response, "model");
    turn.response_id = readText(event.data.response, "id");
    return [0, ...this.parents];
  }

  /** Something grows by a piece. */
  delta(event: RunEvent): number[] {
    const { data } = event;
    const turn = this.turn(event);
    const growing = DELTAS[data.type]!;
    const [entry, part] = this.part(event, growing);
    const target = part ?? (entry.type === "tool" ? entry : null);
    const piece = data.delta;
    if (target === null || !piece) return this.changed(entry);
    if ("arguments" in target) target.arguments += String(piece);
    else target.text += String(piece);
    if (data.type === "response.output_text.delta") {
      turn.text_deltas += 1;
      turn.last_text_at = event.at;
      turn.first_text_at ??= event.at;
    }
    return this.changed(entry);
  }

  private part(event: RunEvent, [type, partType, indexName]: Growing): [Said, Part | null] {
    const { data } = event;
    const outputIndex: number = data.output_index || 0;
    const itemId = readText(data, "item_id");
    let entry = this.known(outputIndex, itemId);
    if (!entry || entry.type !== type) {
      entry = this.begin(event, type, outputIndex, itemId);
      entry.cut = this.shown.cut;
    }
    if (entry.type !== "message" && entry.type !== "reasoning") return [entry, null];
    const index: number = indexName === null ? 0 : data[indexName] || 0;
    let part = entry.parts.findLast((each) => each.index === index && each.type === partType);
    if (!part) {
      part = { type: partType as Part["type"], index, text: "", annotations: [] };
      entry.parts.push(part);
    }
    return [entry, part];
  }

  /** What the response has begun there. By the place: some servers change an item's id from event to event. */
  private known(outputIndex: number, itemId: string | null): Said | undefined {
    const entry = this.open.get(outputIndex);
    return entry?.cut && entry.item_id !== itemId ? undefined : entry;
  }

  private begin(event: RunEvent, type: Said["type"], outputIndex: number, itemId: string | null): Said {
    const entry = newSaid(type, event.seq, event.at, event.agent);
    entry.turn = this.shown.turns.at(-1)!.number;
    entry.attempt = event.attempt;
    entry.output_index = outputIndex;
    entry.item_id = itemId;
    this.add(entry);
    this.open.set(outputIndex, entry);
    this.unclaimed.push(entry);
    return entry;
  }

  private phase(entry: ToolEntry, kind: string, at: number): number[] {
    const dot = kind.lastIndexOf(".");
    if (kind.slice(0, Math.max(dot, 0)) !== `response.${entry.kind}`) return [];
    entry.phase = kind.slice(dot + 1);
    if (entry.state === "arguments" && entry.phase !== "completed") {
      entry.state = "running";
      entry.started_at = at;
    }
    return this.changed(entry);
  }

  private done(event: RunEvent, deltaType: string, name: string): number[] {
    const [entry, part] = this.part(event, DELTAS[deltaType]!);
    const whole = event.data[name];
    if (typeof whole === "string" && whole) {
      if (part) part.text = whole;
      else if (entry.type === "tool") entry.arguments = whole;
    }
    if (entry.type === "tool") {
      entry.name = entry.name || readText(event.data, "name") || "";
      entry.parsed = parsed(entry.arguments);
    }
    return this.changed(entry);
  }

  private outputItem(event: RunEvent, isDone: boolean): number[] {
    const raw = event.data.item;
    const outputIndex: number = event.data.output_index || 0;
    const itemId = readText(raw, "id");
    const entry = this.known(outputIndex, itemId) ?? this.begin(event, entryType(raw), outputIndex, itemId);
    entry.item_id = itemId ?? entry.item_id;
    if (isDone) this.complete(entry, raw, event.at);
    else if (entry.type === "tool") fillCall(entry, raw, event.at, false);
    else if (entry.type === "other") entry.kind = kindOf(raw);
    return this.changed(entry);
  }

  /** The item is whole. */
  protected complete(entry: Said, raw: any, at: number): void {
    entry.cut = false;
    if (entry.ended_at === null && entry.type !== "tool" && entry.type !== "handoff") entry.ended_at = at;
    if (entry.type === "message") {
      setParts(entry, contentParts(raw));
      entry.state = raw?.status === "incomplete" ? "incomplete" : "done";
    } else if (entry.type === "reasoning") {
      setParts(entry, reasoningParts(raw));
      entry.state = "done";
    } else if (entry.type === "other") {
      entry.kind = kindOf(raw);
      entry.raw = raw;
    } else if (entry.type === "tool") {
      fillCall(entry, raw, at, true);
    }
  }

  /** The response has ended, in one way or another. */
  private end(turn: Turn, event: RunEvent, state: "completed" | "incomplete" | "failed"): number[] {
    const response = event.data.response;
    turn.state = state;
    turn.ended_at = event.at;
    turn.model = turn.model ?? readText(response, "model");
    turn.response_id = turn.response_id ?? readText(response, "id");
    turn.usage = usageOf(response?.usage);
    const touched: Entry[] = this.closeTexts(event.at, state === "completed" ? "done" : "incomplete");
    if (state !== "completed") {
      for (const entry of this.open.values()) {
        if (entry.type === "tool" && entry.state === "arguments") {
          entry.state = "cancelled";
          entry.ended_at = event.at;
          touched.push(entry);
        }
      }
      const failure = failureOf(event, response);
      this.add(failure);
      touched.push(failure);
    }
    this.open = new Map();
    return [0, ...this.changed(...touched)];
  }

  private closeTexts(at: number, state: "done" | "incomplete"): Entry[] {
    const closed: Entry[] = [];
    for (const entry of this.open.values()) {
      if ((entry.type === "message" || entry.type === "reasoning") && entry.state === "streaming") {
        entry.state = state;
        entry.ended_at = at;
        closed.push(entry);
      }
    }
    return closed;
  }
}

function forget(book: Book, entry: Entry): void {
  book.index.delete(entry.id);
  if (entry.type === "tool" && entry.nested) for (const inner of entry.nested.entries) forget(book, inner);
}

export function kindOf(raw: any): string {
  return String(raw?.type ?? "None");
}

function entryType(raw: any): Said["type"] {
  const kind = kindOf(raw);
  if (kind === "message" || kind === "reasoning") return kind;
  return kind.endsWith("_call") || TOOL_KINDS.has(kind) ? "tool" : "other";
}

/** The parts of the whole item. Some servers leave them out at the end: then the deltas have said it all. */
function setParts(entry: MessageEntry | ReasoningEntry, given: GivenPart[]): void {
  if (!given.some((part) => part.text)) return;
  const seen: Record<string, number> = {};
  entry.parts = given.map(({ type, text, notes }, number) => {
    const index = entry.type === "message" ? number : (seen[type] ?? 0);
    seen[type] = index + 1;
    const part = entry.parts.find((each) => each.type === type && each.index === index) ?? {
      type,
      index,
      text: "",
      annotations: [],
    };
    part.text = text;
    part.annotations = notes;
    return part;
  });
}

/** What an item says about its call. The provider's own tools have run when their item is done. */
export function fillCall(entry: ToolEntry, raw: any, at: number, isDone: boolean): void {
  const kind = kindOf(raw);
  entry.kind = kind;
  entry.call_id = readText(raw, "call_id") ?? readText(raw, "id") ?? entry.call_id;
  const name = readText(raw, "name") ?? readText(raw, "server_label");
  entry.name = name || entry.name || (kind.endsWith("_call") ? kind.slice(0, -5) : kind);
  const given = firstGiven(raw, ARGUMENTS);
  if (given !== null) entry.arguments = typeof given === "string" ? given : dumps(given);
  if (!isDone) return;
  entry.parsed = parsed(entry.arguments);
  const state = HOSTED_STATES[readText(raw, "status") ?? "completed"];
  const isOurs = kind === "function_call" || kind === "mcp_approval_request";
  if (isOurs || !state || (entry.state !== "arguments" && entry.state !== "running")) return;
  const error = isGiven(raw?.error) ? raw.error : null;
  entry.state = error !== null ? "failed" : state;
  entry.ended_at = at;
  const output = error ?? firstGiven(raw, OUTPUTS);
  if (output !== null) entry.output = outputText(output);
}

/** Whether Python takes the value for true: empty lists and objects are not. */
function isGiven(value: any): boolean {
  if (!value) return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}

function firstGiven(raw: Fields, names: string[]): any {
  for (const name of names) if (isGiven(raw?.[name])) return raw[name];
  return null;
}

export function parsed(text: string): any {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function usageOf(usage: any): Record<string, number> | null {
  const found: Record<string, number> = {};
  for (const name of ["input_tokens", "output_tokens", "total_tokens"]) {
    if (Number.isInteger(usage?.[name])) found[name] = usage[name];
  }
  return Object.keys(found).length ? found : null;
}

function failureOf(event: RunEvent, response: any): ErrorEntry {
  const { data } = event;
  let { code, message } = (data.type === "error" ? data : (response?.error ?? {})) as Fields;
  if (data.type === "response.incomplete") {
    code = response?.incomplete_details?.reason;
    message = "The response is incomplete" + (code ? `: ${code}` : "");
  }
  return {
    type: "error",
    id: event.seq,
    at: event.at,
    agent: event.agent,
    void: false,
    source: "model",
    name: data.type,
    message: String(message || "The model's response failed"),
    code: code == null ? null : String(code),
    retryable: false,
  };
}
