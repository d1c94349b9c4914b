// What to do when a session's WebSocket has ended: the table of docs/protocol.md. Pure.

const FIRST = 250; // milliseconds before the first try that is not at once
const LONGEST = 8000;
const AGENT_TRIES = 5; // new sessions in a row whose agent gave up
// What a close with 1000 says, as words of words.js; for any other one it just ended.
const REASONS = {
  "continued elsewhere": "elsewhere",
  idle: "idle",
  "maximum duration": "longest",
  "minutes of the day used up": "daily_minutes",
};

/**
 * @typedef {object} End how a WebSocket ended
 * @property {number} code 1006 too for one that never opened
 * @property {string} reason
 * @property {boolean} greeted whether its RelaySession came
 *
 * @typedef {object} Next
 * @property {"stop" | "return" | "begin" | "ask"} step stop; return with the resume ticket; begin
 *   another session in the same conversation; ask over REST whether the session still lives
 * @property {string} [problem] a word for why, with "stop"
 */

/** @param {End} end @param {number} failures ends in a row since it went well @returns {Next} */
export function whatNext({ code, reason, greeted }, failures) {
  switch (code) {
    case 1000:
      return { step: "stop", problem: REASONS[reason] ?? "ended" };
    case 1002:
    case 1007:
    case 1009:
      return { step: "stop", problem: "defect" };
    case 1011:
    case 1014:
      return failures < AGENT_TRIES ? { step: "begin" } : { step: "stop", problem: "agent" };
    case 1012:
      return { step: "return" };
    default:
      if (code >= 3000) return { step: "stop", problem: "agent" };
      return { step: greeted ? "return" : "ask" };
  }
}

/** Milliseconds before the next try: at once, then longer and longer, never all at the same time. */
export function pause(failures, random = Math.random) {
  if (failures === 0) return 0;
  const most = Math.min(LONGEST, FIRST * 2 ** (failures - 1));
  return most / 2 + (most / 2) * random();
}
