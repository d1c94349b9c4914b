// Who has the floor, and which agent audio is still to be heard. Pure.

/** @typedef {"listening" | "thinking" | "speaking"} Turn */

// After a barge-in some audio of the reply that was cut may still come. The first of these says
// that what comes now belongs to something new (docs/protocol.md, "Order").
const NEW = new Set(["EndOfTurn", "AgentThinking", "FunctionCallRequest", "RelayReconnected"]);
// A reply is over: all of it was sent, or its agent is gone.
const OVER = new Set(["AgentAudioDone", "RelayReconnecting", "RelayReconnected"]);

export class Floor {
  /** @type {Turn} */
  turn = "listening";
  /** Audio of a reply that was cut still comes: it is not to be played. */
  deaf = false;
  #calls = new Set(); // the ids of those that were told: what comes of them later is no turn

  /** A JSON event of the session. Returns true when playback has to stop at once. */
  handle({ type, code, role, id, status, conversational_behavior: manner = "default" }) {
    const called = type === "RelayIntent" && !this.#calls.has(id);
    if (called) this.#calls.add(id);
    if (type === "UserStartedSpeaking") {
      this.deaf = true;
      this.turn = "listening";
      return true;
    }
    if (type === "AgentStartedSpeaking" || NEW.has(type) || called) this.deaf = false;
    if (type === "ConversationText" && role === "user") {
      this.deaf = false;
      if (manner === "default") this.turn = "thinking"; // else it was said by the way
    } else if (type === "AgentThinking" || (called && status !== "rejected")) {
      this.turn = "thinking";
    } else if ((OVER.has(type) || code === "events_missed") && this.turn === "speaking") {
      this.turn = "listening";
    }
    return false;
  }

  /** Agent audio came. Returns whether it is to be played. */
  audio() {
    if (!this.deaf) this.turn = "speaking";
    return !this.deaf;
  }

  /** Nothing more of this reply is to be heard. */
  hush() {
    this.deaf = true;
    if (this.turn === "speaking") this.turn = "listening";
  }

  /** Another agent, or another session: nothing of the past counts. */
  reset() {
    this.turn = "listening";
    this.deaf = false;
  }
}
