// An open block as it will be: marks that are not closed yet are closed, and those of which only a part is there are
// held back, so that nothing jumps when the rest comes.

const WORD = /[\p{L}\p{N}]/u;

export function mend(text: string): string {
  // A line of nothing but the beginning of a mark: it may become a list, a heading, a line or a table.
  text = text.replace(/(^|\n)[ \t>]*([-=+*_#~`|]{1,4}|\d{1,9}[.)]?)[ \t]*$/, "$1");
  text = withoutOpenTable(text);
  const start = startOfLast(text);
  return text.slice(0, start) + closeInline(text.slice(start));
}

/** A table is one only once the line under its head is there. */
function withoutOpenTable(text: string): string {
  const lines = text.split("\n");
  const last = lines.findIndex((line, index) => line.trimStart().startsWith("|") && index >= lines.length - 2);
  if (last < 0) return text;
  const above = lines[last - 1] ?? "";
  if (above.includes("|")) return text;
  const under = lines[last + 1];
  if (under !== undefined && /^\s*\|?\s*:?-+:?\s*\|.*\|?\s*$/.test(under)) return text;
  return lines.slice(0, last).join("\n");
}

/** Where the last paragraph, item or cell begins: marks are not closed across those. */
function startOfLast(text: string): number {
  let start = 0;
  for (const found of text.matchAll(/\n\s*\n|(?:^|\n)[ \t]*(?:[-*+]|\d+[.)])[ \t]+|(?:^|\n)\s*#+ |\|/g)) {
    start = found.index + found[0].length;
  }
  return start;
}

function closeInline(text: string): string {
  // Marks at the very end may be more of them, or open something, or close it: whatever they are, what is open is
  // closed below.
  text = text.replace(/[*_~]+$/, "");
  const open: string[] = [];
  let index = 0;
  while (index < text.length) {
    const character = text[index]!;
    if (character === "\\") {
      index += 2;
      continue;
    }
    const run = /^(`+|\*+|_+|~~)/.exec(text.slice(index, index + 8))?.[0];
    if (!run) {
      index += 1;
      continue;
    }
    const before = text[index - 1] ?? " ";
    const after = text[index + run.length] ?? " ";
    if (character === "`") {
      const end = endOfCode(text, index + run.length, run);
      if (end < 0) {
        if (index + run.length >= text.length) return close(text.slice(0, index), open);
        const content = text.slice(0, text.length - trailing(text, "`"));
        return close(content + run, open);
      }
      index = end;
      continue;
    }
    const canOpen = !/\s/.test(after) && (character !== "_" || !WORD.test(before));
    const canClose = !/\s/.test(before) && (character !== "_" || !WORD.test(after));
    for (const mark of marksOf(run)) {
      if (canClose && open.includes(mark)) open.splice(open.lastIndexOf(mark), 1);
      else if (canOpen) open.push(mark);
    }
    index += run.length;
  }
  return close(withoutOpenLink(text), open);
}

function marksOf(run: string): string[] {
  if (run.length === 3) return [run.slice(0, 2), run[0]!];
  return run.length <= 2 ? [run] : [];
}

function endOfCode(text: string, from: number, run: string): number {
  for (const found of text.slice(from).matchAll(/`+/g)) {
    if (found[0] === run) return from + found.index + run.length;
  }
  return -1;
}

function trailing(text: string, character: string): number {
  let count = 0;
  while (text.at(-1 - count) === character) count += 1;
  return count;
}

/** What an address is written for shows as text until the address is there; of a picture nothing shows. */
function withoutOpenLink(text: string): string {
  const found = /(!?)\[([^[\]]*)(\](\([^()\s]*)?)?$/.exec(text);
  if (!found || (found[3] === "]" && /^[ xX]?$/.test(found[2]!))) return text;
  return text.slice(0, found.index) + (found[1] ? "" : found[2]);
}

function close(text: string, open: string[]): string {
  const marks = [...open];
  let rest = text.trimEnd();
  // A mark with nothing after it yet is held back.
  for (;;) {
    const mark = marks.at(-1);
    if (!mark || !rest.endsWith(mark)) break;
    rest = rest.slice(0, -mark.length);
    marks.pop();
  }
  return rest + marks.reverse().join("");
}
