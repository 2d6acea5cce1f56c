// Requests to the server that the page came from, wherever it is mounted. Where it asks for a token, the request waits
// until a person has given one, and is made again.

const TOKEN = "runstream.token";

/** For as long as the tab is open; for as long as the page is, where the browser keeps nothing. */
let kept: string | null = null;

function token(): string | null {
  try {
    kept = sessionStorage.getItem(TOKEN) ?? kept;
  } catch {
    // What is kept here has to do.
  }
  return kept;
}

export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }

  /** Whether the same may be answered later. */
  get passes(): boolean {
    return this.status === 429 || this.status >= 500;
  }
}

export const UNREACHABLE = "The server cannot be reached.";

/** The server could not be reached. */
export class Unreachable extends Error {}

type Asking = { promise: Promise<void>; give: () => void };

/** The one question for a token that is open, if any; all requests wait for it. */
let asking: Asking | null = null;
let onAsking: (message: string | null) => void = () => {};

export function whenTokenIsAsked(show: (message: string | null) => void): void {
  onAsking = show;
}

export function giveToken(given: string): void {
  kept = given;
  try {
    sessionStorage.setItem(TOKEN, given);
  } catch {
    // Then it holds until the page is loaded again.
  }
  const { give } = asking!;
  asking = null;
  onAsking(null);
  give();
}

function askForToken(message: string): Promise<void> {
  if (!asking) {
    let give!: () => void;
    const promise = new Promise<void>((resolve) => (give = resolve));
    asking = { promise, give };
    onAsking(message);
  }
  return asking.promise;
}

/** The response to a request. Raises Unreachable; a refusal other than for want of a token is an answer. */
export async function request(method: string, path: string, options: RequestInit = {}): Promise<Response> {
  for (;;) {
    const sent = token();
    const headers = new Headers(options.headers);
    if (sent) headers.set("Authorization", `Bearer ${sent}`);
    let response: Response;
    try {
      response = await fetch(new URL(path, document.baseURI), { ...options, method, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new Unreachable(UNREACHABLE);
    }
    if (response.status !== 401) return response;
    const { message } = await refusalOf(response);
    if (sent === token()) await askForToken(sent ? "That token was not accepted." : message);
  }
}

/** The JSON of an answer. Raises Refusal, Unreachable. */
export async function ask(method: string, path: string, body?: unknown): Promise<any> {
  const options: RequestInit =
    body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const response = await request(method, path, options);
  if (!response.ok) throw await refusalOf(response);
  return response.status === 204 ? null : response.json();
}

export async function refusalOf(response: Response): Promise<Refusal> {
  try {
    const { error } = await response.json();
    return new Refusal(response.status, error.code, error.message);
  } catch {
    return new Refusal(response.status, "error", `The server answered with status ${response.status}.`);
  }
}
