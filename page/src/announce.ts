// What screen readers are told: how the run stands, and each message once it is whole, paragraph by paragraph. Not
// every token.

import type { RunEvent, RunView } from "./view";
import { DELTAS } from "./view/response";

const KEPT = 4;

export function say(text: string, urgent = false): void {
  const region = document.querySelector(urgent ? "#alerts" : "#announcements");
  if (!region || !text) return;
  const line = document.createElement("p");
  line.textContent = text;
  region.append(line);
  while (region.children.length > KEPT) region.firstChild!.remove();
}

export function announceEvents(view: RunView, batch: RunEvent[]): void {
  for (const event of batch) {
    if (event.path.length || (event.kind === "model" && event.data.type in DELTAS)) continue;
    const text = announcementOf(view, event);
    if (text) say(text, event.kind === "run.end" && view.status === "failed");
  }
}

function announcementOf(view: RunView, event: RunEvent): string | null {
  const { data } = event;
  switch (event.kind) {
    case "agent.start":
      return data.previous ? `${data.previous} hands over to ${event.agent}.` : `${event.agent} answers.`;
    case "attempt.discarded":
      return "What was said last does not count: it is tried again.";
    case "run.end":
      return endOf(view);
    case "item":
      break;
    default:
      return null;
  }
  const { raw, type } = data;
  if (type === "message_output_item") return `${event.agent}: ${plainText(raw)}`;
  if (type === "tool_call_item") return `Calls the tool ${raw.name ?? raw.type}.`;
  if (type === "tool_approval_item") return `${raw.name} waits for your approval.`;
  return null;
}

function endOf(view: RunView): string {
  switch (view.status) {
    case "completed":
      return "The answer is complete.";
    case "cancelled":
      return "Stopped.";
    case "interrupted":
      return "The run waits for your approval.";
  }
  return `The run failed: ${view.error?.message ?? ""}`;
}

/** A message without the marks of Markdown that would only be spelled out. */
function plainText(raw: any): string {
  const text = (raw?.content ?? []).map((part: any) => part.text ?? part.refusal ?? "").join("\n");
  return text
    .replace(/```[^\n]*\n([\s\S]*?)```/g, "(code) $1")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[*_`~#>|]+/g, "");
}
