// One frame of the server as an event.

import type { RunEvent } from "./entries";

/** The event of its JSON, with what the server leaves out where it is empty. */
export function eventOf(data: string): RunEvent {
  return { agent: null, attempt: 0, path: [], ...JSON.parse(data) };
}
