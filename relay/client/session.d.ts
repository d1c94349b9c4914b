// Types of what an application uses: session.js, rest.js and transcript.js. By hand, no build.

export type State = "closed" | "connecting" | "open" | "reconnecting" | "offline";
export type Turn = "listening" | "thinking" | "speaking";
export type Role = "user" | "assistant";

export interface Format {
  encoding: string;
  sample_rate: number;
}

export interface Audio {
  input: Format;
  output: Format & { container?: string };
}

/** A stored message, as REST has it. */
export interface Message {
  id: string;
  seq: number;
  turn: number;
  role: Role;
  content: string;
  session_id: string;
  created_at: string;
}

export interface Begun {
  conversationId: string;
  audio: Audio;
  /** The newest stored ones of a resumed conversation, in order. */
  messages: Message[];
  /** The session before was lost, this one takes its place. */
  again: boolean;
}

/** Every JSON event of docs/protocol.md and of Deepgram; types that we do not know, too. */
export type SessionEvent = { type: string } & Record<string, any>;

export declare class Problem extends Error {
  /** The status of the HTTP answer; 0: there was none. */
  readonly status: number;
  /** A word for programs: "network", "not_found", "elsewhere", "agent" ... */
  readonly code: string;
  /** Seconds, where the server says when to ask again. */
  readonly retryAfter: number | null;
}

export interface RestOptions {
  /** Where the API is, without a slash at the end; "api/v1/voice" if left out. */
  url?: string;
  /** Asked before each request; what it gives is sent as a bearer token. */
  getToken?: () => Promise<string | null>;
  /** The relay takes the token no more (401): let the user sign in, then begin again. */
  onSignedOut?: (problem: Problem) => void;
  /** An answer is a copy that the service worker has kept, of that moment. */
  onCopy?: (moment: Date) => void;
  fetch?: typeof fetch;
}

export interface Page<Item> {
  items: Item[];
  next_cursor: string | null;
}

export interface Conversation {
  id: string;
  title: string | null;
  status: "open" | "closed";
  created_at: string;
  updated_at: string;
}

/** All raise Problem. */
export declare class Rest {
  constructor(options?: RestOptions);
  session(id: string): Promise<{ state: "new" | "live" | "ended" } & Record<string, any>>;
  conversations(query?: { q?: string; cursor?: string | null; limit?: number }): Promise<Page<Conversation>>;
  conversation(id: string): Promise<Conversation>;
  messages(id: string, afterSeq?: number): Promise<Message[]>;
  calls(id: string): Promise<Record<string, any>[]>;
  retry(id: string, intentId: string): Promise<Record<string, any>>;
  rename(id: string, title: string): Promise<Conversation>;
  erase(id: string): Promise<null>;
  intents(): Promise<{ id: string; name: string; title: string }[]>;
}

/** Codes of limits: there are as many sessions as may be; `retryAfter` says when to try again. */
export declare const FULL: string[];

export interface SessionOptions {
  rest?: Rest;
  /** What is wanted; what is left out is as in agent.yaml. */
  audio?: Partial<Audio>;
  /** An IANA name: which day it is for the user. */
  timezone?: string;
  /** For tests and for Node.js. */
  WebSocket?: typeof WebSocket;
  online?: () => boolean;
}

export interface SessionEventMap {
  /** `problem` says why it closed, where something went wrong, or why a lost session waits. */
  state: CustomEvent<{ state: State; problem: Problem | null }>;
  /** A session began: from now on its audio formats are known. */
  begun: CustomEvent<Begun>;
  event: CustomEvent<SessionEvent>;
  /** Agent audio to be played: audio of a reply that was cut is left out. */
  audio: CustomEvent<ArrayBuffer>;
  /** Stop playing, now: the user speaks. */
  silence: CustomEvent<undefined>;
  /** Something may have been missed: ask REST for messages and calls. */
  gap: CustomEvent<undefined>;
}

export declare class Session extends EventTarget {
  constructor(options?: SessionOptions);
  readonly state: State;
  readonly turn: Turn;
  readonly conversationId: string | null;
  readonly sessionId: string | null;
  readonly audio: Audio | null;
  /** Resolves when the agent listens; rejects with Problem. Null: a new conversation. */
  open(conversationId?: string | null): Promise<void>;
  /** Hang up; the conversation stays. */
  close(): void;
  /** About 20 ms in the format of `audio.input`; held while the network is gone, the newest 8 s. */
  sendAudio(frame: ArrayBuffer): void;
  /** A typed turn; resolves when the agent has taken it, rejects with Problem. */
  type(text: string): Promise<void>;
  /** The user's word on a call that is `awaiting`. Raises Problem when there is no connection. */
  decide(id: string, wanted: boolean): void;
  /** Drop the rest of the agent's reply: `silence`, and no `audio` until something new is said. */
  hush(): void;
  /** Call it on `online`, `offline` and `visibilitychange`. */
  nudge(): void;
  addEventListener<Name extends keyof SessionEventMap>(
    type: Name, listener: (event: SessionEventMap[Name]) => void, options?: AddEventListenerOptions): void;
  removeEventListener<Name extends keyof SessionEventMap>(
    type: Name, listener: (event: SessionEventMap[Name]) => void): void;
}
