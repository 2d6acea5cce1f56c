// For tests: Markdown as it grows. Reads JSON from stdin: a list of texts. Prints one line of JSON for each: what is
// wrong (a list), and how many characters were parsed.
import { readFileSync } from "node:fs";
import { load } from "./load.mjs";

const { Blocks } = await load("src/markdown/blocks.ts");

/** What a reader sees of tokens: their types and texts, without what only tells how they were written. */
function shown(token) {
  const inner = token.tokens ?? token.items ?? null;
  return [token.type, inner ? inner.map(shown) : token.text, token.depth ?? null, token.lang ?? null];
}

/** The text of tokens as a reader sees it. */
function plain(token) {
  if (token.type === "code" || token.type === "codespan" || token.type === "html") return "";
  if (token.type === "table") return [...token.header, ...token.rows.flat()].flatMap((cell) => cell.tokens.map(plain)).join("");
  const inner = token.tokens ?? token.items;
  return inner ? inner.map(plain).join("") : (token.text ?? "");
}

for (const { text, sizes, loose } of JSON.parse(readFileSync(0, "utf8"))) {
  const wrong = [];
  const whole = new Blocks();
  whole.update(text, true);
  const growing = new Blocks();
  let length = 0;
  let before = [];
  let turn = 0;
  while (length < text.length) {
    length += sizes[turn++ % sizes.length];
    const part = text.slice(0, length);
    growing.update(part, false);
    const kept = before.filter((block, index) => growing.done[index] === block).length;
    if (kept < before.length) wrong.push(`a block that was complete has changed at ${length}`);
    before = [...growing.done];
    const open = growing.open.map(plain).join("");
    if (!loose && /\*|`|~~|\]\(/.test(open)) wrong.push(`marks are shown at ${length}: ${open}`);
  }
  const grown = growing.done.map(({ token }) => token);
  growing.update(text, true);
  const kept = grown.filter((token, index) => growing.done[index]?.token === token).length;
  if (kept < grown.length && !loose) wrong.push(`${grown.length - kept} blocks are not the same at the end`);
  const ends = JSON.stringify(growing.done.map(({ token }) => shown(token)));
  if (ends !== JSON.stringify(whole.done.map(({ token }) => shown(token)))) wrong.push("the end is not the whole");
  console.log(JSON.stringify({ wrong, parsed: growing.parsed, blocks: growing.done.length }));
}
