// A run's events from a cursor on, to its end: comes again from the last event whenever the connection is lost.
//
// By fetch and not by EventSource, which can send no token. A page that nobody looks at lets its connection go, since
// a browser has but six of them for all tabs of a server; it goes on where it was when it is looked at again.

import { refusalOf, request, Unreachable } from "./api";
import { FrameReader } from "./sse";
import { eventOf, type RunEvent } from "./view";

/** The server sends at least a comment every 15 s. */
const SILENCE_MS = 40_000;
const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 8_000;
const UNSEEN_MS = 10_000;
/** So often, and for so long, a page that nobody sees looks what there is: its title tells whether the run has ended. */
const LOOK_MS = 30_000;
const LOOKING_MS = 1_000;

export interface Listener {
  /** Events that follow one another. */
  events(batch: RunEvent[]): void;
  /** Whether the stream is open now; if not, that is being tried again. */
  connected(is: boolean): void;
  /** The cursor is no place in the log (any more): the run is to be loaded anew. */
  lost(): void;
  /** There is no such run (any more). */
  gone(message: string): void;
}

export class Follower {
  private closed = false;
  private ended = false;
  private aborting: AbortController | null = null;
  private wake: () => void = () => {};

  constructor(
    private readonly runId: string,
    private cursor: string,
    private readonly listener: Listener,
  ) {
    addEventListener("online", this.hurry);
    addEventListener("offline", this.cut);
    document.addEventListener("visibilitychange", this.hurry);
    void this.run();
  }

  close(): void {
    this.closed = true;
    this.aborting?.abort();
    removeEventListener("online", this.hurry);
    removeEventListener("offline", this.cut);
    document.removeEventListener("visibilitychange", this.hurry);
    this.wake();
  }

  private readonly hurry = (): void => {
    if (!document.hidden) this.wake();
  };

  private readonly cut = (): void => {
    this.aborting?.abort();
  };

  private async run(): Promise<void> {
    let pause = FIRST_PAUSE_MS;
    while (!this.closed) {
      const before = this.cursor;
      try {
        await this.read();
      } catch (error) {
        // Whatever cut the stream, the rest is asked for again. What is no failure of the network is told.
        if (!this.aborting?.signal.aborted && !(error instanceof Unreachable) && !(error instanceof TypeError)) {
          console.error(error);
        }
      }
      this.aborting = null;
      if (this.ended || this.closed) break;
      if (!document.hidden) this.listener.connected(false);
      pause = this.cursor === before ? Math.min(pause * 2, LONGEST_PAUSE_MS) : FIRST_PAUSE_MS;
      await this.rest(pause * (0.75 + Math.random() / 2));
    }
    this.close();
  }

  /** For so long, or until there is a network, or somebody looks. Who is not looked at looks now and then. */
  private async rest(pause: number): Promise<void> {
    if (this.closed) return;
    await new Promise<void>((resolve) => {
      this.wake = resolve;
      setTimeout(resolve, document.hidden ? LOOK_MS : pause);
    });
    this.wake = () => {};
  }

  private async read(): Promise<void> {
    const aborting = (this.aborting = new AbortController());
    const response = await request("GET", `runs/${this.runId}/events?after=${this.cursor}`, {
      signal: aborting.signal,
      cache: "no-store",
    });
    if (response.status === 204) {
      this.ended = true;
      return;
    }
    if (!response.ok) {
      const refusal = await refusalOf(response);
      if (refusal.passes) return;
      this.ended = true;
      this.listener.gone(refusal.message);
      return;
    }
    this.listener.connected(true);
    const frames = new FrameReader();
    const reader = response.body!.getReader();
    let silence = 0;
    let unseen = 0;
    let patience = document.hidden ? LOOKING_MS : UNSEEN_MS;
    const looked = (): void => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => aborting.abort(), patience);
      patience = UNSEEN_MS;
    };
    document.addEventListener("visibilitychange", looked);
    looked();
    try {
      for (;;) {
        clearTimeout(silence);
        silence = setTimeout(() => aborting.abort(), SILENCE_MS);
        const { done, value } = await reader.read();
        if (done || this.closed) return;
        const batch: RunEvent[] = [];
        for (const frame of frames.feed(value)) {
          if (frame.event === "resync") {
            this.ended = true;
            this.listener.lost();
            return;
          }
          if (frame.event !== "message") continue;
          batch.push(eventOf(frame.data));
          this.cursor = frame.id ?? this.cursor;
        }
        if (!batch.length) continue;
        this.ended = batch.at(-1)!.kind === "run.end";
        this.listener.events(batch);
        if (this.ended) return;
      }
    } finally {
      clearTimeout(silence);
      clearTimeout(unseen);
      document.removeEventListener("visibilitychange", looked);
      reader.cancel().catch(() => {});
    }
  }
}
