import type { Message, Role, SessionEvent } from "./session.js";

export interface Line {
  kind: "line";
  key: string;
  role: Role;
  text: string;
  /** Null: not stored yet. */
  seq: number | null;
  /** Typed, and the agent has not taken it yet. */
  pending: boolean;
  /** When it was said, as an ISO date; null: not known. */
  at: string | null;
}

export interface Bubble {
  kind: "bubble";
  key: string;
  role: Role;
  lines: Line[];
}

export interface Card {
  kind: "card";
  key: string;
  id: string | null;
  intent: string | null;
  status:
    | "awaiting" | "submitting" | "submitted" | "rejected" | "failed" | "cancelling" | "cancelled";
  arguments: unknown;
  /** `{saved: true, because}` while it is submitting: it is tried again. */
  result: any;
  /** While it is awaiting: when the wait for the user ends. Saved: when it is tried again. */
  until: string | null;
  /** It is not wanted any more; with `submitted` it was carried out all the same. */
  takenBack: boolean;
}

/** Tells `change`. */
export declare class Transcript extends EventTarget {
  readonly seq: number;
  readonly isEmpty: boolean;
  items(): (Bubble | Card)[];
  clear(): void;
  /** `at`: when the event came, as an ISO date. */
  handle(event: SessionEvent, at?: string | null): void;
  typed(text: string, at?: string | null): void;
  untyped(text: string): void;
  merge(messages: Pick<Message, "seq" | "role" | "content">[], calls?: Record<string, any>[]): void;
}
