// One run as the page holds it: its view, and which of its entries have changed since they were drawn.

import { ask, Refusal } from "./api";
import { Follower } from "./follow";
import { changed } from "./frame";
import { HEAD, RunView, type RunEvent } from "./view";

export interface RunRecord {
  run_id: string;
  agent: string;
  status: string;
  owner: string | null;
  cursor: string;
  created_at: number;
  updated_at: number;
  ended_at: number | null;
  title: string | null;
  session: string | null;
}

export class Run {
  view = new RunView();
  loaded = false;
  connected = true;
  /** Why it cannot be shown. */
  failure: string | null = null;
  /** What people have said that is not in the log yet. */
  unsent: { id: number; text: string; count: number }[] = [];
  stopping = false;
  private follower: Follower | null = null;
  private readonly revisions = new Map<number, number>();
  private closed = false;
  /** Called with what came, after the view has it. */
  heard: (run: Run, batch: RunEvent[]) => void = () => {};

  constructor(
    readonly id: string,
    /** When it was begun, in seconds since the epoch. */
    readonly createdAt: number,
    readonly agent: string,
    public title: string | null = null,
  ) {}

  /** Counts the changes of an entry; that of the head, those of the run. */
  revision(id: number): number {
    return this.revisions.get(id) ?? 0;
  }

  get going(): boolean {
    return !this.failure && !this.view.ended;
  }

  /** Show what there is, then follow. */
  async load(): Promise<void> {
    try {
      const snapshot = await ask("GET", `runs/${this.id}`);
      if (this.closed) return;
      this.view = RunView.from(snapshot.view);
      this.loaded = true;
      this.touch([HEAD, ...[...this.revisions.keys()]]);
      if (!this.view.ended) this.follow(snapshot.cursor);
    } catch (error) {
      if (this.closed) return;
      if (error instanceof Refusal && !error.passes) {
        this.failure = error.message;
        this.touch([HEAD]);
      } else {
        // Not reachable, or too busy: it is tried again while anybody waits for it.
        this.connected = false;
        this.touch([HEAD]);
        await new Promise((resolve) => setTimeout(resolve, 1_000));
        if (!this.closed) {
          this.connected = true;
          await this.load();
        }
      }
    }
  }

  /** From the beginning, where it has just begun. */
  follow(cursor = ""): void {
    this.loaded = true;
    this.follower = new Follower(this.id, cursor, {
      events: (batch) => {
        const ids = new Set<number>([HEAD]);
        for (const event of batch) for (const id of this.view.apply(event)) ids.add(id);
        this.touch(ids);
        this.heard(this, batch);
      },
      connected: (is) => {
        this.connected = is;
        this.touch([HEAD]);
      },
      lost: () => void this.load(),
      gone: (message) => {
        this.failure = message;
        this.touch([HEAD]);
      },
    });
  }

  close(): void {
    this.closed = true;
    this.follower?.close();
  }

  touch(ids: Iterable<number>): void {
    for (const id of ids) this.revisions.set(id, this.revision(id) + 1);
    changed();
  }
}
