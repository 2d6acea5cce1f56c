import type { VNode } from "preact";
import { useRef, useState } from "preact/hooks";
import { say } from "../announce";
import { Icon } from "./icons";

const SHOWN_MS = 1_600;

export function Copy({ text, label }: { text: () => string; label: string }): VNode {
  const [copied, setCopied] = useState(false);
  const timer = useRef(0);
  const copy = async (): Promise<void> => {
    await write(text());
    say("Copied.");
    setCopied(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setCopied(false), SHOWN_MS);
  };
  return (
    <button type="button" class="quiet copy" aria-label={label} title={label} onClick={() => void copy()}>
      <Icon name={copied ? "check" : "copy"} />
    </button>
  );
}

async function write(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages of https, and of this machine, may use the clipboard directly.
    const before = document.activeElement as HTMLElement | null;
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus({ preventScroll: true });
  }
}
