// What the page shows and does: the runs of one conversation, the list of all, and what is asked of the server.
//
// A conversation is the runs of one session. Its address is `#/c/SESSION`; that of a run without one, `#/r/RUN`.

import { ask, Refusal, Unreachable, UNREACHABLE, whenTokenIsAsked } from "./api";
import { announceEvents, say } from "./announce";
import { changed } from "./frame";
import { Run, type RunRecord } from "./run";
import { HEAD, type ToolEntry } from "./view";

const REFRESH_MS = 15_000;
/** So many lists of runs are asked for at once until one has what is looked for: the server's work stays bounded. */
const MOST_LISTS = 5;

export interface Server {
  agents: { name: string; description: string | null }[];
  sessions: boolean;
}

/** A line of the list of what was asked before. */
export interface Past {
  /** The address of its page. */
  place: string;
  title: string;
  agent: string;
  status: string;
  at: number;
  /** Oldest first. */
  runs: RunRecord[];
}

/** What the server lists of runs, the newest first. */
interface Listed {
  runs: RunRecord[];
  /** Where the list goes on; null at its end. */
  next: string | null;
}

export class Desk {
  server: Server | null = null;
  history: Past[] | null = null;
  /** The server is asked for older runs. */
  loadingOlder = false;
  private listed: Listed | null = null;
  runs: Run[] = [];
  /** Where the page is: "" is the empty conversation. */
  place = "";
  loading = false;
  /** Which agent the next run begins with. */
  agent = "";
  /** What the composer holds. */
  draft = "";
  sending = false;
  /** What went wrong with what was asked last. */
  problem: string | null = null;
  tokenQuestion: string | null = null;
  showsHistory = false;
  showsTimeline = false;
  private session: string | null = null;
  /** The other tabs of this server. */
  private readonly others = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("runstream");
  private nextUnsent = 1;

  constructor() {
    whenTokenIsAsked((message) => {
      this.tokenQuestion = message;
      changed();
    });
  }

  async start(): Promise<void> {
    addEventListener("hashchange", () => void this.open(placeOf(location.hash)));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) void this.refresh();
    });
    this.others?.addEventListener("message", () => void this.refresh());
    setInterval(() => {
      if (!document.hidden) void this.refresh();
    }, REFRESH_MS);
    await this.meet();
    await this.refresh();
    await this.open(placeOf(location.hash), true);
  }

  private async meet(): Promise<void> {
    while (!this.server) {
      try {
        this.server = await ask("GET", "page/server");
        this.problem = null;
      } catch (error) {
        this.problem = messageOf(error);
        changed();
        await new Promise((resolve) => setTimeout(resolve, 1_500));
      }
    }
    this.agent = this.server!.agents[0]?.name ?? "";
    changed();
  }

  /** The run that is asked and stopped: the newest one. */
  get current(): Run | undefined {
    return this.runs.at(-1);
  }

  /** Whether what is asked next knows what was said here. */
  get continues(): boolean {
    return !this.place || this.session !== null;
  }

  get going(): boolean {
    return this.current?.going ?? false;
  }

  /** The server answers: that it did not is no longer of interest. */
  private reached(): void {
    if (this.problem === UNREACHABLE) this.problem = null;
  }

  // What was before.

  async refresh(): Promise<void> {
    try {
      this.list(withOlder(await ask("GET", "page/runs"), this.listed));
      this.reached();
      changed();
    } catch {
      // The list stays as it is: the next time may do.
    }
  }

  private list(listed: Listed): void {
    this.listed = listed;
    this.history = pastOf(listed.runs);
    this.joinOthers();
  }

  get hasOlder(): boolean {
    return !!this.listed?.next;
  }

  /** One list more; raises what `ask` does. */
  private async listOlder(): Promise<void> {
    const from = this.listed!.next!;
    const older: Listed = await ask("GET", `page/runs?before=${encodeURIComponent(from)}`);
    // It was read anew meanwhile, without what was before.
    if (this.listed!.next !== from) return;
    this.list({ runs: [...this.listed!.runs, ...older.runs], next: older.next });
  }

  /** Show conversations that are older than those of the list. */
  async older(): Promise<void> {
    if (this.loadingOlder) return;
    this.loadingOlder = true;
    changed();
    const before = this.history!.length;
    let next: Past | undefined;
    try {
      // A whole list may be of conversations that are shown already.
      for (let left = MOST_LISTS; left && this.hasOlder && this.history!.length <= before; left--) await this.listOlder();
      this.reached();
      const found = this.history!.slice(before);
      say(found.length === 1 ? "1 older conversation." : `${found.length} older conversations.`);
      // Who goes on with the keyboard goes on with what has come.
      next = found[0] ?? (this.hasOlder ? undefined : this.history!.at(-1));
    } catch (error) {
      this.problem = messageOf(error);
    }
    this.loadingOlder = false;
    changed();
    requestAnimationFrame(() => next && focusPast(next));
  }

  /** The runs of a place, the list of which may have to be read on for it. */
  private async find(place: string): Promise<Past | undefined> {
    for (let left = MOST_LISTS; ; left--) {
      const past = this.history?.find((each) => each.place === place);
      if (past || !left || !this.hasOlder || place[0] !== "c") return past;
      try {
        await this.listOlder();
      } catch (error) {
        this.problem = messageOf(error);
        return undefined;
      }
    }
  }

  /** Runs of this conversation that another tab has begun, or that an older list has. */
  private joinOthers(): void {
    const past = this.history!.find((each) => each.place === this.place);
    if (!past || this.loading) return;
    for (const [index, record] of past.runs.entries()) {
      if (this.runs.some((run) => run.id === record.run_id)) continue;
      const run = this.hold(record);
      const later = new Set(past.runs.slice(index + 1).map((each) => each.run_id));
      const place = this.runs.findIndex((each) => later.has(each.id));
      this.runs.splice(place < 0 ? this.runs.length : place, 0, run);
      void run.load();
    }
  }

  async open(place: string, force = false): Promise<void> {
    this.showsHistory = false;
    if (place === this.place && !force) return changed();
    for (const run of this.runs) run.close();
    this.place = place;
    this.runs = [];
    this.session = null;
    this.problem = null;
    if (location.hash !== hashOf(place)) history.pushState(null, "", hashOf(place) || location.pathname);
    if (!place) return changed();
    this.loading = true;
    changed();
    const past = await this.find(place);
    if (this.place !== place) return;
    const [kind, name] = [place[0], place.slice(2)];
    let records = past?.runs ?? [];
    if (kind === "c") this.session = name;
    else if (!past) records = [{ run_id: name, created_at: 0, agent: "", title: null } as RunRecord];
    this.runs = records.map((record) => this.hold(record));
    const last = records.at(-1);
    if (last && this.server!.agents.some((agent) => agent.name === last.agent)) this.agent = last.agent;
    await Promise.all(this.runs.map((run) => run.load()));
    if (this.place !== place) return;
    this.loading = false;
    changed();
  }

  private hold(record: Pick<RunRecord, "run_id" | "created_at" | "agent" | "title">): Run {
    const run = new Run(record.run_id, record.created_at, record.agent, record.title);
    run.heard = (heard, batch) => {
      this.reached();
      announceEvents(heard.view, batch);
      this.checkUnsent(heard);
      if (heard.view.ended) {
        heard.stopping = false;
        void this.refresh();
      }
    };
    return run;
  }

  // What is open on the page.

  write(draft: string): void {
    this.draft = draft;
    changed();
  }

  choose(agent: string): void {
    this.agent = agent;
    changed();
  }

  toggleHistory(): void {
    this.showsHistory = !this.showsHistory;
    changed();
    const place = this.showsHistory ? "#history .begin" : "#history-switch";
    requestAnimationFrame(() => document.querySelector<HTMLElement>(place)?.focus());
  }

  toggleTimeline(): void {
    this.showsTimeline = !this.showsTimeline;
    changed();
  }

  closeTimeline(): void {
    this.showsTimeline = false;
    changed();
    document.querySelector<HTMLElement>("#timeline-switch")?.focus();
  }

  begin(): void {
    void this.open("");
    focusComposer();
  }

  async remove(past: Past): Promise<void> {
    for (const record of past.runs) {
      try {
        await ask("DELETE", `runs/${record.run_id}`);
      } catch (error) {
        // Another tab may have been faster.
        if (!(error instanceof Refusal && error.status === 404)) this.problem = messageOf(error);
      }
    }
    const gone = new Set(past.runs.map((each) => each.run_id));
    if (this.listed) this.listed.runs = this.listed.runs.filter((each) => !gone.has(each.run_id));
    if (this.place === past.place) await this.open("");
    await this.refresh();
    say("Deleted.");
  }

  // What people say.

  async send(text = this.draft): Promise<void> {
    text = text.trim();
    if (!text || this.sending || !this.server) return;
    this.sending = true;
    this.problem = null;
    changed();
    try {
      if (this.going) await this.add(this.current!, text);
      else await this.ask(text);
      if (this.draft.trim() === text) this.draft = "";
    } catch (error) {
      this.problem = messageOf(error);
    }
    this.sending = false;
    changed();
  }

  private async ask(text: string): Promise<void> {
    const session = this.server!.sessions ? (this.session ?? newSession()) : null;
    const body = { input: text, agent: this.agent, ...(session ? { session } : {}) };
    const from = this.place;
    const { run_id, agent } = await ask("POST", "runs", body);
    this.others?.postMessage("began");
    void this.refresh();
    // Who has gone elsewhere meanwhile finds it in the list; the list may have been faster, too.
    if (this.place !== from || this.runs.some((run) => run.id === run_id)) return;
    const run = this.hold({ run_id, created_at: Date.now() / 1000, agent, title: text });
    run.unsent.push({ id: this.nextUnsent++, text, count: 0 });
    const place = session ? `c/${session}` : `r/${run_id}`;
    if (place !== this.place) {
      for (const each of this.runs) each.close();
      this.runs = [];
      this.place = place;
      history.pushState(null, "", hashOf(place));
    }
    this.session = session;
    this.loading = false;
    this.runs.push(run);
    run.follow();
  }

  /** Something more, while the run goes on. */
  private async add(run: Run, text: string): Promise<void> {
    const unsent = { id: this.nextUnsent++, text, count: inputsOf(run) };
    run.unsent.push(unsent);
    run.touch([HEAD]);
    try {
      await ask("POST", `runs/${run.id}/input`, { input: text });
    } catch (error) {
      run.unsent = run.unsent.filter((each) => each !== unsent);
      if (error instanceof Refusal && error.status === 409) return this.ask(text); // it has ended meanwhile
      throw error;
    }
  }

  /** What has come into the log is not shown twice; what came too late is for the next run. */
  private checkUnsent(run: Run): void {
    if (!run.unsent.length) return;
    const inputs = run.view.main.entries.filter((entry) => entry.type === "input");
    run.unsent = run.unsent.filter((unsent) => {
      const place = inputs.findIndex((entry, index) => index >= unsent.count && entry.text === unsent.text);
      return place < 0;
    });
    if (run.view.ended && run.unsent.length) {
      const left = run.unsent.map((unsent) => unsent.text).join("\n");
      run.unsent = [];
      this.draft = this.draft ? `${left}\n${this.draft}` : left;
      this.problem = "The run had ended before this was heard: send it again to go on.";
    }
  }

  async stop(): Promise<void> {
    const run = this.current;
    if (!run?.going || run.stopping) return;
    run.stopping = true;
    run.touch([HEAD]);
    try {
      await ask("POST", `runs/${run.id}/cancel`, {});
    } catch (error) {
      run.stopping = false;
      this.problem = messageOf(error);
    }
    run.touch([HEAD]);
  }

  /** Allow or refuse a call that waits. */
  async answer(run: Run, call: ToolEntry, approve: boolean, always: boolean, message: string): Promise<void> {
    try {
      const more = message.trim() ? { message: message.trim() } : {};
      await ask("POST", `runs/${run.id}/approvals`, { call_id: call.call_id, approve, always, ...more });
      this.problem = null;
    } catch (error) {
      // Another tab may have been faster.
      if (!(error instanceof Refusal && error.status === 409)) this.problem = messageOf(error);
    }
    changed();
  }
}

function inputsOf(run: Run): number {
  return run.view.main.entries.filter((entry) => entry.type === "input").length;
}

function messageOf(error: unknown): string {
  if (error instanceof Refusal || error instanceof Unreachable) return error.message;
  throw error;
}

export function focusComposer(): void {
  document.querySelector<HTMLTextAreaElement>("#message")?.focus();
}

function focusPast(past: Past): void {
  const lines = [...document.querySelectorAll<HTMLElement>(".past a")];
  lines.find((line) => line.getAttribute("href") === hashOf(past.place))?.focus();
}

function newSession(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

function placeOf(hash: string): string {
  const found = hash.match(/^#\/([cr])\/(.+)$/);
  try {
    return found ? `${found[1]}/${decodeURIComponent(found[2]!)}` : "";
  } catch {
    return ""; // no address that this page has made
  }
}

export function hashOf(place: string): string {
  return place ? `#/${place[0]}/${encodeURIComponent(place.slice(2))}` : "";
}

/** The newest list, and what is known of those after it: all that is older than the newest list's end, which has to be
 * known, or there may be a gap. */
function withOlder(newest: Listed, known: Listed | null): Listed {
  const end = newest.runs.at(-1)?.run_id;
  const place = known?.runs.findIndex((each) => each.run_id === end) ?? -1;
  if (place < 0 || !newest.next) return newest;
  return { runs: [...newest.runs, ...known!.runs.slice(place + 1)], next: known!.next };
}

/** The runs by conversations, the newest first. */
function pastOf(records: RunRecord[]): Past[] {
  const found = new Map<string, Past>();
  for (const record of records) {
    const place = record.session ? `c/${record.session}` : `r/${record.run_id}`;
    const past = found.get(place);
    if (past) {
      past.runs.unshift(record);
      past.title = record.title ?? past.title;
    } else {
      const { agent, status, created_at } = record;
      found.set(place, { place, title: record.title ?? "", agent, status, at: created_at, runs: [record] });
    }
  }
  return [...found.values()];
}
