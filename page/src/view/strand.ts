// What happens in one strand beside the model's stream: the twin of runstream/view/strand_fold.py.

import {
  isSaid,
  newSaid,
  type Checked,
  type Entry,
  type HandoffEntry,
  type RunEvent,
  type Said,
  type ToolEntry,
  type ToolState,
} from "./entries";
import { fillCall, kindOf, ResponseFold } from "./response";
import { inputText, outputText, readText } from "./texts";

const KEPT_REPORTS = 100;
const UNFINISHED: ToolState[] = ["arguments", "waiting", "running"];
// The library's own words to the model.
const STATES: Record<string, ToolState> = {
  failed: "failed",
  timed_out: "failed",
  rejected: "rejected",
  cancelled: "cancelled",
  unknown: "unknown",
};
const FAILURES = ["An error occurred while running the tool.", "An error occurred while parsing tool arguments."];
const REJECTED = "Tool execution was not approved.";
const CANCELLED = "cancelled: the run ended before this call had a result.";
const UNCERTAIN =
  "The outcome of this call is unknown: the process that ran it stopped before it could say. It may have had its " +
  "effect; find out before calling it again.";

const ITEM_TYPES: Record<string, Said["type"]> = {
  message_output_item: "message",
  reasoning_item: "reasoning",
  tool_call_item: "tool",
  handoff_call_item: "tool",
  tool_search_call_item: "tool",
  mcp_list_tools_item: "tool",
  mcp_approval_request_item: "tool",
};

type Call = ToolEntry | HandoffEntry;

/** Events of one path, in their order. */
export class StrandFold extends ResponseFold {
  /** Calls without an output, by their ids, which a model may use again. */
  private calls = new Map<string, Call[]>();

  override resume(): void {
    super.resume();
    for (const entry of this.shown.entries) {
      if ((entry.type === "tool" || entry.type === "handoff") && entry.item_seq !== null && !isOver(entry)) {
        this.expectOutput(entry);
      }
    }
  }

  /** The call goes on until its output is there. */
  expectOutput(entry: Call): void {
    if (entry.call_id === null) return;
    const waiting = this.calls.get(entry.call_id);
    if (waiting) waiting.push(entry);
    else this.calls.set(entry.call_id, [entry]);
  }

  /** The first call of that id that has no output; it has one now. */
  private takeCall(callId: string | null): Call | undefined {
    const waiting = this.calls.get(callId ?? "");
    const entry = waiting?.shift();
    if (waiting && !waiting.length) this.calls.delete(callId!);
    return entry;
  }

  /** The latest call of that id that goes on, else the latest one at all. */
  call(callId: string): ToolEntry | undefined {
    const isTool = (entry: Entry): entry is ToolEntry => entry.type === "tool";
    const waiting = (this.calls.get(callId) ?? []).filter(isTool).at(-1);
    return waiting ?? (this.shown.entries.findLast((each) => isTool(each) && each.call_id === callId) as ToolEntry);
  }

  // Items.

  item(event: RunEvent): number[] {
    const { data } = event;
    switch (data.type) {
      case "tool_call_output_item":
        return this.output(event);
      case "handoff_output_item":
        return this.handedOver(event);
      case "tool_approval_item":
        return this.asked(event);
      case "mcp_approval_response_item":
        return this.hostedAnswer(event);
      case "input_item":
        return this.input([data.raw], event, true);
    }
    let entry = this.claim(event);
    this.complete(entry, data.raw, event.at);
    entry.item_seq = event.seq;
    if (data.type === "handoff_call_item" && entry.type === "tool") entry = this.asHandoff(entry);
    if (entry.type === "tool") this.called(entry, event);
    if (entry.type === "handoff") this.expectOutput(entry);
    return this.changed(entry);
  }

  /** The entry that the response has begun for the item; a new one where it was not streamed. */
  private claim(event: RunEvent): Said {
    const { raw, type } = event.data;
    const wanted = ITEM_TYPES[type] ?? "other";
    const itemId = readText(raw, "id");
    const callId = readText(raw, "call_id");
    const fitting = this.unclaimed.filter((entry) => entry.type === wanted);
    let entry = fitting.find((each) =>
      callId !== null && each.type === "tool" ? each.call_id === callId : itemId !== null && each.item_id === itemId,
    );
    // Some servers change an item's id from event to event: then the order tells.
    entry ??= fitting.find((each) => !each.cut);
    if (entry) {
      this.unclaimed.splice(this.unclaimed.indexOf(entry), 1);
      return entry;
    }
    entry = newSaid(wanted, event.seq, event.at, event.agent);
    entry.turn = this.shown.turns.length;
    entry.item_id = itemId;
    this.add(entry);
    return entry;
  }

  private called(entry: ToolEntry, event: RunEvent): void {
    const more = event.data.more ?? {};
    entry.title = more.title ?? null;
    entry.description = more.description ?? null;
    if (entry.state === "arguments") {
      entry.state = "running";
      entry.started_at = event.at;
    }
    if (!isOver(entry)) this.expectOutput(entry);
  }

  /** What looked like a call of a tool while it was streamed is a handoff. */
  private asHandoff(entry: ToolEntry): HandoffEntry {
    const badge = newSaid("handoff", entry.id, entry.at, entry.agent) as HandoffEntry;
    for (const name of ["turn", "attempt", "output_index", "item_id", "item_seq", "call_id", "name", "arguments"]) {
      (badge as any)[name] = (entry as any)[name];
    }
    badge.source = entry.agent;
    const place = this.shown.entries.lastIndexOf(entry);
    if (place >= 0) this.shown.entries[place] = badge;
    this.book.index.set(badge.id, badge);
    return badge;
  }

  private output(event: RunEvent): number[] {
    const { raw } = event.data;
    const callId = readText(raw, "call_id");
    let entry = this.takeCall(callId);
    if (!entry) {
      entry = newSaid("tool", event.seq, event.at, event.agent) as ToolEntry;
      entry.call_id = callId;
      entry.cut = true;
      entry.kind = kindOf(raw).replace(/_output$/, "");
      entry.item_seq = event.seq;
      this.add(entry);
    }
    const output = raw?.output ?? null;
    entry.output = outputText(output);
    entry.ended_at = event.at;
    if (entry.type === "handoff") {
      entry.state = "refused";
      return this.changed(entry);
    }
    if (Array.isArray(output)) entry.content = output;
    if (entry.state === "waiting") this.noLongerPending(entry);
    entry.outcome = readText(event.data.more, "outcome");
    if (entry.state !== "rejected") entry.state = stateOf(entry.outcome, entry.output);
    return [0, ...this.changed(entry)];
  }

  private handedOver(event: RunEvent): number[] {
    const more = event.data.more ?? {};
    const callId = readText(event.data.raw, "call_id");
    let entry = this.takeCall(callId);
    if (entry?.type !== "handoff") {
      entry = newSaid("handoff", event.seq, event.at, event.agent) as HandoffEntry;
      entry.call_id = callId;
      entry.cut = true;
      entry.item_seq = event.seq;
      this.add(entry);
    }
    entry.state = "done";
    entry.ended_at = event.at;
    entry.source = more.source || entry.source;
    entry.target = more.target ?? null;
    return this.changed(entry);
  }

  // Approvals.

  private noLongerPending(entry: ToolEntry): void {
    this.book.pending = this.book.pending.filter((id) => id !== entry.id);
  }

  /** A call waits for a person. */
  private asked(event: RunEvent): number[] {
    const { raw } = event.data;
    const callId = readText(raw, "call_id") ?? readText(raw, "id");
    let entry = (this.calls.get(callId ?? "") ?? []).find(
      (each): each is ToolEntry => each.type === "tool" && each.state === "running" && each.answer === null,
    );
    if (!entry) {
      entry = newSaid("tool", event.seq, event.at, event.agent) as ToolEntry;
      entry.turn = this.shown.turns.length;
      entry.cut = true;
      entry.item_seq = event.seq;
      fillCall(entry, raw, event.at, true);
      this.add(entry);
      this.expectOutput(entry);
    }
    entry.state = "waiting";
    entry.started_at = null;
    this.book.pending.push(entry.id);
    return [0, ...this.changed(entry)];
  }

  /** A person has said whether a call may be made; with `always`, the agent's other calls of the tool, too. */
  answered(answer: any, at: number | null, agent: string | null): number[] {
    const changed: Entry[] = [];
    for (const id of [...this.book.pending]) {
      const entry = this.book.index.get(id);
      if (entry?.type !== "tool") continue;
      const alike = answer.always && entry.name === answer.tool_name && entry.agent === agent;
      if (entry.call_id !== answer.call_id && !alike) continue;
      this.noLongerPending(entry);
      entry.answer = {
        approved: answer.approved,
        always: answer.always ?? false,
        message: answer.message ?? null,
        at,
      };
      if (answer.approved) {
        entry.state = "running";
        entry.started_at = at;
      } else {
        entry.state = "rejected";
        entry.ended_at = at;
      }
      changed.push(entry);
    }
    return [0, ...this.changed(...changed)];
  }

  /** The answer to what the provider has asked about a tool of an MCP server. */
  private hostedAnswer(event: RunEvent): number[] {
    const { raw } = event.data;
    const entry = this.takeCall(readText(raw, "approval_request_id"));
    if (entry?.type !== "tool") return [];
    const approved = Boolean(raw?.approve);
    entry.state = approved ? "done" : "rejected";
    entry.answer ??= { approved, always: false, message: readText(raw, "reason"), at: event.at };
    entry.ended_at = event.at;
    this.noLongerPending(entry);
    return [0, ...this.changed(entry)];
  }

  // What else happens.

  agentStarted(event: RunEvent): number[] {
    const name = event.agent ?? "";
    this.shown.agent = name;
    this.shown.agents.push({ seq: event.seq, at: event.at, name, previous: event.data.previous ?? null });
    return [0, ...this.parents];
  }

  /** What came from a seq on is void. */
  discarded(event: RunEvent): number[] {
    const { data } = event;
    const found: Entry[] = [];
    for (const entry of [...this.shown.entries].reverse()) {
      if (entry.id >= 0 && entry.id < data.from_seq) break;
      if (entry.id >= 0 && !entry.void && entry.type !== "input" && entry.type !== "discarded") found.unshift(entry);
    }
    for (const entry of [...found].reverse()) {
      if ((entry.type === "tool" || entry.type === "handoff") && entry.item_seq !== null && !isAnswered(entry)) {
        this.takeCall(entry.call_id);
      }
    }
    this.makeVoid(found, event.at);
    const notice: Entry = {
      type: "discarded",
      id: event.seq,
      at: event.at,
      agent: event.agent,
      void: false,
      from_seq: data.from_seq,
      reason: data.reason,
      detail: data.detail ?? null,
      next_model: readText(data, "next_model"),
    };
    this.add(notice);
    return [0, ...this.changed(notice)];
  }

  /** People said something. */
  input(given: any, event: RunEvent, added: boolean): number[] {
    const entry: Entry = {
      type: "input",
      id: event.seq,
      at: event.at,
      agent: null,
      void: false,
      text: inputText(given),
      items: typeof given === "string" ? null : given,
      added,
    };
    this.add(entry);
    return this.changed(entry);
  }

  /** A tool that runs has something to say. */
  reported(event: RunEvent): number[] {
    const entry = this.call(readText(event.data, "call_id") ?? "");
    if (!entry) return [];
    entry.progress.push({ seq: event.seq, at: event.at, data: event.data.data ?? null });
    entry.progress = entry.progress.slice(-KEPT_REPORTS);
    entry.progress_count += 1 + (event.data.dropped || 0);
    return this.changed(entry);
  }

  /** Nothing more comes: whatever is open will never end. */
  ended(status: string, at: number): number[] {
    const changed: Entry[] = [];
    for (const entry of [...this.unclaimed, ...[...this.calls.values()].flat()]) {
      if (entry.type === "message" || entry.type === "reasoning") {
        if (entry.state === "streaming") {
          entry.state = "incomplete";
          entry.ended_at = at;
          changed.push(entry);
        }
      } else if (entry.type === "tool" && UNFINISHED.includes(entry.state)) {
        if (entry.state === "waiting" && status === "interrupted") continue;
        entry.state = entry.state === "running" && status !== "interrupted" ? "unknown" : "cancelled";
        entry.ended_at = at;
        changed.push(entry);
      }
    }
    const turn = this.shown.turns.at(-1);
    if (turn?.state === "open") {
      turn.state = "incomplete";
      turn.ended_at = at;
    }
    return changed.length ? this.changed(...changed) : [];
  }

  /** A guardrail has decided. */
  checked(event: RunEvent): number[] {
    const { name, about, outcome, tool_name, call_id, duration_s, delay_s, delay_max_s, message } = event.data;
    const { seq, at, agent } = event;
    const told = { name, about, outcome, tool_name, call_id, duration_s, delay_s, delay_max_s, message };
    this.shown.guardrails.push({ seq, at, agent, ...told } as Checked);
    return [0, ...this.parents];
  }

  /** Of what an earlier run has said, nobody knows when. */
  forgetTimes(): void {
    for (const entry of this.shown.entries) {
      entry.at = null;
      if (isSaid(entry)) entry.ended_at = null;
      if (entry.type === "tool") entry.started_at = null;
    }
  }
}

/** Whether no output is to come. What was rejected still gets one, for the model. */
function isOver(entry: Call): boolean {
  return entry.void || isAnswered(entry);
}

function isAnswered(entry: Call): boolean {
  if (entry.type === "handoff") return entry.state !== "requested";
  return ![...UNFINISHED, "rejected"].includes(entry.state) || entry.output !== null;
}

function stateOf(outcome: string | null, output: string): ToolState {
  if (outcome !== null) return STATES[outcome] ?? "done";
  // A log of an earlier version, or an output that is not ours: known by the library's own words.
  if (output === REJECTED) return "rejected";
  if (output === CANCELLED) return "cancelled";
  if (output === UNCERTAIN) return "unknown";
  return FAILURES.some((words) => output.startsWith(words)) ? "failed" : "done";
}
