// Markdown that grows: what is complete is parsed once, and only the last block again and again.

import { Lexer, type MarkedOptions, type Token, type Tokens } from "marked";
import { mend } from "./mend";

const OPTIONS: MarkedOptions = { gfm: true, breaks: true };

/** A block that changes no more; the same object as long as its source is the same. */
export interface Block {
  token: Token;
  /** Counts up: what is drawn is told apart by it. */
  key: number;
}

export class Blocks {
  done: Block[] = [];
  /** The last block, mended so that it shows as it will once its marks are closed. */
  open: Token[] = [];
  /** How many characters were parsed: for tests of what a long text costs. */
  parsed = 0;
  private text = "";
  private offset = 0;
  private links: Record<string, any> = {};
  private isFinal = false;
  private nextKey = 1;

  /** The whole text so far; `isFinal` if nothing more comes. */
  update(text: string, isFinal: boolean): void {
    if (text.includes("\r")) text = text.replace(/\r\n?/g, "\n"); // as the lexer does
    if (text === this.text && isFinal === this.isFinal) return;
    if (!text.startsWith(this.text)) this.forget();
    this.text = text;
    this.isFinal = isFinal;
    if (isFinal) {
      this.finish();
      return;
    }
    const tail = text.slice(this.offset);
    const tokens = this.lex(tail);
    // Only the last block can change with what comes. Empty lines after it belong to it: a list may go on after them.
    let last = tokens.length - 1;
    while (last > 0 && tokens[last]!.type === "space") last -= 1;
    for (const token of tokens.slice(0, last)) {
      this.offset += token.raw.length;
      if (token.type !== "space" && token.type !== "def") this.done.push({ token, key: this.nextKey++ });
    }
    const rest = text.slice(this.offset);
    this.open = tokens[last]?.type === "code" ? tokens.slice(last) : this.lex(mend(rest));
  }

  /** Parsed as a whole: what was parsed in parts is kept where it is the same. */
  private finish(): void {
    const tokens = this.lex(this.text).filter((token) => token.type !== "space" && token.type !== "def");
    const before = this.done;
    // Addresses may have come after the places that name them.
    const late = Object.keys(this.links).length > 0;
    const isSame = (a: Token, b: Token): boolean =>
      a.raw === b.raw && (!late || JSON.stringify(a) === JSON.stringify(b));
    let same = 0;
    while (same < before.length && same < tokens.length && isSame(before[same]!.token, tokens[same]!)) same += 1;
    const added = tokens.slice(same).map((token) => ({ token, key: this.nextKey++ }));
    this.done = [...before.slice(0, same), ...added];
    this.open = [];
    this.offset = this.text.length;
  }

  private forget(): void {
    this.done = [];
    this.open = [];
    this.offset = 0;
    this.links = {};
  }

  private lex(text: string): Token[] {
    this.parsed += text.length;
    const lexer = new Lexer(OPTIONS);
    Object.assign(lexer.tokens.links, this.links);
    const tokens = lexer.lex(text);
    this.links = { ...lexer.tokens.links };
    return tokens;
  }
}

export type { Token, Tokens };
