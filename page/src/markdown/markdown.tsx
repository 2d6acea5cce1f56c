// Markdown as elements of the page. No HTML is ever made of strings: what a model writes as HTML is shown as text.

import type { ComponentChildren, VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Copy } from "../ui/copy";
import { stable } from "../ui/stable";
import { Blocks, type Block as DoneBlock, type Token } from "./blocks";
import { inlinePicture, safeAddress, unescaped } from "./text";

/** A text in Markdown, which may still grow. */
export const Markdown = stable(
  ({ text, growing = false }: { text: string; growing?: boolean }): VNode => {
    const blocks = useRef<Blocks | null>(null);
    const parsed = (blocks.current ??= new Blocks());
    parsed.update(text, !growing);
    return (
      <div class={growing ? "markdown growing" : "markdown"}>
        {groupsOf(parsed.done).map((group) => (
          <Group key={group[0]!.key} blocks={group} />
        ))}
        {parsed.open.map((token, index) => (
          <Block key={`open${index}`} token={token} growing />
        ))}
      </div>
    );
  },
  (a, b) => a.text === b.text && a.growing === b.growing,
);

/** So many blocks are looked at as one, lest a long text costs more with each block that it already has. */
const GROUP = 32;

function groupsOf(blocks: DoneBlock[]): DoneBlock[][] {
  const groups: DoneBlock[][] = [];
  for (let start = 0; start < blocks.length; start += GROUP) groups.push(blocks.slice(start, start + GROUP));
  return groups;
}

const Done = stable(
  ({ token }: { token: Token }) => <Block token={token} />,
  (a, b) => a.token === b.token,
);

const Group = stable(
  ({ blocks }: { blocks: DoneBlock[] }) => (
    <>
      {blocks.map(({ token, key }) => (
        <Done key={key} token={token} />
      ))}
    </>
  ),
  (a, b) => a.blocks.length === b.blocks.length && a.blocks.every((block, index) => block === b.blocks[index]),
);

function Block({ token, growing = false }: { token: any; growing?: boolean }): VNode | null {
  switch (token.type) {
    case "heading": {
      // Below the headings of the page itself.
      const Heading = `h${Math.min(token.depth + 2, 6)}` as "h3";
      return <Heading class={`depth-${token.depth}`}>{inline(token.tokens)}</Heading>;
    }
    case "paragraph":
      return <p>{inline(token.tokens)}</p>;
    case "text":
      return <>{token.tokens ? inline(token.tokens) : unescaped(token.text)}</>;
    case "blockquote":
      return <blockquote dir="auto">{blocksOf(token.tokens, growing)}</blockquote>;
    case "list":
      return <List token={token} growing={growing} />;
    case "code":
      return <Code code={token.text} language={(token.lang ?? "").trim().split(/[\s,{]/)[0]} growing={growing} />;
    case "table":
      return <Table token={token} />;
    case "hr":
      return <hr />;
    case "html":
      return <p class="literal">{token.text.trimEnd()}</p>;
    case "space":
    case "def":
      return null;
    default:
      return <p>{token.raw}</p>;
  }
}

function blocksOf(tokens: Token[], growing = false): ComponentChildren {
  return tokens.map((token, index) => <Block key={index} token={token} growing={growing && index === tokens.length - 1} />);
}

function List({ token, growing }: { token: any; growing: boolean }): VNode {
  const items = token.items.map((item: any, index: number) => {
    const inner = item.tokens.filter((each: any) => each.type !== "checkbox");
    const content = blocksOf(inner, growing && index === token.items.length - 1);
    if (!item.task) return <li key={index}>{content}</li>;
    return (
      <li key={index} class="task">
        <input type="checkbox" checked={item.checked} disabled aria-label={item.checked ? "done" : "to do"} />
        <div>{content}</div>
      </li>
    );
  });
  if (!token.ordered) return <ul dir="auto">{items}</ul>;
  return (
    <ol dir="auto" start={token.start === "" ? 1 : token.start}>
      {items}
    </ol>
  );
}

function Table({ token }: { token: any }): VNode {
  const side = (index: number): string | undefined => (token.align[index] ? `to-${token.align[index]}` : undefined);
  return (
    <div class="table" tabIndex={0} role="group" aria-label="Table">
      <table dir="auto">
        {token.header.some((cell: any) => cell.text) && (
          <thead>
            <tr>
              {token.header.map((cell: any, index: number) => (
                <th key={index} class={side(index)} scope="col">
                  {inline(cell.tokens)}
                </th>
              ))}
            </tr>
          </thead>
        )}
        <tbody>
          {token.rows.map((row: any[], number: number) => (
            <tr key={number}>
              {row.map((cell, index) => (
                <td key={index} class={side(index)}>
                  {inline(cell.tokens)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The only tags that are more than text, and only without attributes and in pairs. */
const TAG = /^<(sub|sup|kbd|mark|b|i|u|s)>$/;

/** Tokens between such a pair are put into one. */
function paired(tokens: any[]): any[] {
  const found: any[] = [];
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index];
    const tag = token.type === "html" ? TAG.exec(token.text)?.[1] : undefined;
    const end = tag ? tokens.findIndex((each, place) => place > index && each.text === `</${tag}>`) : -1;
    if (end < 0) {
      found.push(token);
      continue;
    }
    found.push({ type: "tag", tag, tokens: tokens.slice(index + 1, end) });
    index = end;
  }
  return found;
}

function inline(tokens: any[] = []): ComponentChildren {
  return paired(tokens).map((token, index) => {
    switch (token.type) {
      case "text":
        return token.tokens ? inline(token.tokens) : unescaped(token.text);
      case "escape":
        return unescaped(token.text);
      case "strong":
        return <strong key={index}>{inline(token.tokens)}</strong>;
      case "em":
        return <em key={index}>{inline(token.tokens)}</em>;
      case "del":
        return <del key={index}>{inline(token.tokens)}</del>;
      case "codespan":
        return <code key={index}>{token.text}</code>;
      case "br":
        return <br key={index} />;
      case "link":
        return <Link key={index} address={token.href} content={inline(token.tokens)} />;
      case "image":
        return <Picture key={index} address={token.href} name={token.text} />;
      case "checkbox":
        return null;
      case "tag": {
        const Tag = token.tag as "sub";
        return <Tag key={index}>{inline(token.tokens)}</Tag>;
      }
      case "html":
        return /^<br\s*\/?>$/i.test(token.text) ? <br key={index} /> : token.text;
      default:
        return token.raw;
    }
  });
}

function Link({ address, content }: { address: string; content: ComponentChildren }): VNode {
  const safe = safeAddress(address);
  if (!safe) return <span title={address}>{content}</span>;
  return (
    <a href={safe} target="_blank" rel="noopener noreferrer nofollow" title={safe}>
      {content}
    </a>
  );
}

/** Pictures from elsewhere are not loaded: their address could tell what is in the conversation. */
function Picture({ address, name }: { address: string; name: string }): VNode {
  const own = inlinePicture(address);
  if (own) return <img src={own} alt={name} />;
  return <Link address={address} content={`Picture: ${name || address}`} />;
}

type Highlight = typeof import("./highlight").highlighted;
let highlight: Highlight | null = null;
let loading: Promise<void> | null = null;

/** Without colours if the network does not give them; they are asked for again with the next code. */
function load(): Promise<void> {
  loading ??= import("./highlight").then(
    (module) => void (highlight = module.highlighted),
    () => void (loading = null),
  );
  return loading;
}

/** Of code that grows only the beginning is coloured anew, and only once it has grown by a quarter. */
const GROWTH = 1.25;
/** Beyond this, colours take longer than they are worth. */
const LONGEST = 60_000;

interface Coloured {
  language: string;
  code: string;
  content: ComponentChildren;
}

export function Code({
  code,
  language = "",
  title = language || "text",
  growing = false,
}: {
  code: string;
  language?: string;
  title?: string;
  growing?: boolean;
}): VNode {
  const kept = useRef<Coloured | null>(null);
  const [, redraw] = useState(0);
  useEffect(() => {
    if (language && !highlight) void load().then(() => redraw(1));
  }, [language]);
  return (
    <div class="code">
      <div class="code-head">
        <span>{title}</span>
        <Copy text={() => code} label="Copy code" />
      </div>
      <pre tabIndex={0} aria-label={`Code${language ? `, ${language}` : ""}`} role="group">
        <code>{colour(kept, code, language, growing)}</code>
      </pre>
    </div>
  );
}

function colour(kept: { current: Coloured | null }, code: string, language: string, growing: boolean): ComponentChildren {
  if (!language || !highlight || code.length > LONGEST) return code;
  let old = kept.current;
  if (old && (old.language !== language || !code.startsWith(old.code))) old = null;
  const whole = growing ? code.slice(0, code.lastIndexOf("\n") + 1) : code;
  if (!old || (growing ? whole.length > old.code.length * GROWTH : whole.length !== old.code.length)) {
    const content = highlight(whole, language.toLowerCase());
    if (content === null) return code;
    old = kept.current = { language, code: whole, content };
  }
  return (
    <>
      {old.content}
      {code.slice(old.code.length)}
    </>
  );
}
