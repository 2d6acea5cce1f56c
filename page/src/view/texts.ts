// Raw items and inputs as texts to show.

/** The field if it is a string that is not empty, else null. */
export function readText(source: any, name: string): string | null {
  const value = source?.[name];
  return typeof value === "string" && value !== "" ? value : null;
}

/** What a person said: the text itself, or that of the last message among the items. */
export function inputText(given: any): string {
  if (typeof given === "string") return given;
  for (const item of [...given].reverse()) {
    const content = item?.content;
    if (typeof content === "string") return content;
    if (Array.isArray(content)) return joined(content);
  }
  return `(${given.length} items)`;
}

/** A tool's output: its text, and the types of whatever else it holds. */
export function outputText(output: any): string {
  if (typeof output === "string") return output;
  if (Array.isArray(output)) return joined(output);
  return dumps(output);
}

function joined(parts: any[]): string {
  return parts.map((part) => part?.text || `[${part?.type ?? "None"}]`).join(" ");
}

/** JSON as Python writes it, so that both twins of the view say the same. */
export function dumps(value: any): string {
  if (Array.isArray(value)) return `[${value.map(dumps).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    const fields = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${dumps(each)}`);
    return `{${fields.join(", ")}}`;
  }
  return JSON.stringify(value ?? null);
}

export interface GivenPart {
  type: "text" | "refusal" | "summary";
  text: string;
  notes: any[];
}

/** The parts of a message. */
export function contentParts(raw: any): GivenPart[] {
  return (raw?.content ?? []).map((part: any): GivenPart => {
    if (part?.refusal != null) return { type: "refusal", text: String(part.refusal), notes: [] };
    return { type: "text", text: String(part?.text || ""), notes: part?.annotations || [] };
  });
}

/** The parts of reasoning. */
export function reasoningParts(raw: any): GivenPart[] {
  const found: GivenPart[] = [];
  for (const [type, name] of [
    ["summary", "summary"],
    ["text", "content"],
  ] as const) {
    for (const part of raw?.[name] ?? []) found.push({ type, text: String(part?.text || ""), notes: [] });
  }
  return found;
}
