// What passes between a browser and the relay.
// Made from docs/relay.asyncapi.yml by `make docs`: do not change it here.

/** allowed, not needed; the relay sends its own */
export interface KeepAlive {
  type: "KeepAlive";
}

/** a typed turn */
export interface InjectUserMessage {
  type: "InjectUserMessage";
  content: string;
}

/** ends the user's turn (Flux models) */
export interface ForceEndTurn {
  type: "ForceEndTurn";
}

/** the user wants a call that is awaiting */
export interface RelayConfirm {
  type: "RelayConfirm";
  /** that of a RelayIntent which is awaiting */
  id: string;
}

/** the user does not want a call that is awaiting */
export interface RelayCancel {
  type: "RelayCancel";
  /** that of a RelayIntent which is awaiting */
  id: string;
}

/** the first audio of a reply is heard; at most once a turn */
export interface RelayPlayout {
  type: "RelayPlayout";
  /** since it came */
  seconds: number;
}

/** the first event after each WebSocket of a session is open */
export interface RelaySession {
  type: "RelaySession";
  session_id: string;
  conversation_id: string;
  /** opens the next WebSocket of this session */
  resume_ticket: string;
  /** seconds that the relay waits for it once this one is broken; 0 is not at all */
  resume_within: number;
  /** the next ConversationText is this one's number plus 1; left out when the numbering goes on */
  last_seq?: number;
  /** another relay had the session before; received counts from 0 again */
  taken_over?: boolean;
  /** after a takeover, the stored messages after the seq that the browser gave */
  messages?: {
    seq: number;
    message_id: string;
    role: "user" | "assistant";
    content: string;
  }[];
}

/** the message is in Postgres */
export interface RelayMessageSaved {
  type: "RelayMessageSaved";
  /** its number in the conversation */
  seq: number;
  message_id: string;
  role: "user" | "assistant";
}

/** a function call and how it stands; sent again when the status changes */
export interface RelayIntent {
  type: "RelayIntent";
  /** the id of the call, as in the history */
  id: string;
  /** the id that the model gave the call; it may be empty, or that of several */
  call_id: string;
  /** its name in the registry; null for an unknown function */
  intent: string | null;
  status:
    | "awaiting" | "submitting" | "submitted" | "rejected" | "failed" | "cancelling" | "cancelled";
  /** as the model sent them; text where they are no JSON */
  arguments?: any;
  /**
   * the answer of the Orchestrator, or an object with error; with saved, while it is delivered
   * later
   */
  result?: any;
  /** when a saved call is submitted again; while it is awaiting, when the wait ends */
  next_attempt_at?: string;
  /** it is not wanted any more; with submitted it was carried out all the same */
  taken_back?: boolean;
}

/** the agent was lost and is dialled again; keep sending audio, it is kept for a while */
export interface RelayReconnecting {
  type: "RelayReconnecting";
}

/** the agent is back and knows what was said */
export interface RelayReconnected {
  type: "RelayReconnected";
}

/** the relay is about to stop; the WebSocket is closed with 1012 in a moment */
export interface RelayGoAway {
  type: "RelayGoAway";
  /** the one of the last RelaySession */
  resume_ticket: string;
  /** seconds after the close */
  reconnect_within: number;
}

/** the session ends soon, because nobody speaks or because it is long */
export interface RelayNotice {
  type: "RelayNotice";
  code: "idle" | "longest" | "daily_minutes";
  /** seconds */
  ends_in: number;
}

/** something went wrong */
export interface RelayError {
  type: "RelayError";
  code:
    | "not_allowed" | "malformed" | "too_long" | "too_often" | "too_fast" | "not_waiting"
    | "not_audio" | "agent_unreachable" | "setup_timeout" | "agent_lost" | "events_missed";
  /** a sentence for people */
  detail: string;
}

/** an event of Deepgram's Voice Agent API */
export interface DeepgramEvent {
  type:
    | "Welcome" | "SettingsApplied" | "ConversationText" | "UserStartedSpeaking" | "EndOfTurn"
    | "AgentThinking" | "AgentStartedSpeaking" | "AgentAudioDone" | "LatencyReport"
    | "InjectionRefused" | "ListenUpdated" | "ThinkUpdated" | "ThinkLiveUpdated" | "SpeakUpdated"
    | "PromptUpdated" | "FrustrationDetected" | "Warning" | "Error";
  [field: string]: any;
}

/** What a browser gets as text. */
export type SessionEvent =
  | RelaySession | RelayMessageSaved | RelayIntent | RelayReconnecting | RelayReconnected
  | RelayGoAway | RelayNotice | RelayError | DeepgramEvent;

/** What a browser may send as text. */
export type BrowserMessage =
  | KeepAlive | InjectUserMessage | ForceEndTurn | RelayConfirm | RelayCancel | RelayPlayout;
