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
  status: "submitting" | "submitted" | "rejected" | "failed" | "cancelled";
  arguments: unknown;
  result: any;
}

/** Tells `change`. */
export declare class Transcript extends EventTarget {
  readonly seq: number;
  readonly isEmpty: boolean;
  items(): (Bubble | Card)[];
  clear(): void;
  handle(event: SessionEvent): void;
  typed(text: string): void;
  untyped(text: string): void;
  merge(messages: Pick<Message, "seq" | "role" | "content">[], calls?: Record<string, any>[]): void;
}
