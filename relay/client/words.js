// What people read: problems in words, each with what to do about it; names and dates.

/**
 * @typedef {object} Words
 * @property {string} title @property {string} text
 * @property {keyof typeof ACTIONS} [action] what can be done about it with a tap
 * @property {boolean} [hint] nothing is wrong
 */

/** What the button of a notice says. */
export const ACTIONS = {
  retry: "Try again",
  steal: "Go on here",
  sound: "Turn it on",
  devices: "Choose another",
  load: "Load it",
  new: "New conversation",
};

/** Beside the names of devices. */
export const DEVICES = { own: "The browser's choice", gone: "Not connected now" };

/** Beside the names of voices and languages. */
export const AGENTS_OWN = "The agent's own";

/** While the session is. */
export const RECORDED = "The sound of this session is being recorded.";

/** Characters that may be typed at once, as in policy.yaml. */
export const LONGEST = 4000;

/** By the `code` of a problem. @type {Record<string, Words>} */
export const PROBLEMS = {
  "mic-refused": {
    title: "The microphone is blocked.",
    text: "Allow it for this page in your browser's settings, then tap the mic again. You can type meanwhile.",
  },
  "mic-asked": {
    title: "Your browser asks for the microphone.",
    text: "Allow it there to talk. You can type meanwhile.",
    hint: true,
  },
  "mic-missing": {
    title: "No microphone was found.",
    text: "Connect one and tap the mic again. You can type meanwhile.",
  },
  "mic-lost": {
    title: "The microphone is gone.",
    text: "It was unplugged or is not allowed any more. Tap the mic to talk again; you can type meanwhile.",
    action: "devices",
  },
  "mic-silent": {
    title: "The microphone gives no sound.",
    text: "Your system or another call has silenced it.",
    action: "devices",
  },
  "mic-busy": {
    title: "The microphone cannot be used.",
    text: "Another program may have it. Close that one, then tap the mic again.",
    action: "devices",
  },
  "mic-insecure": {
    title: "This page may not use a microphone.",
    text: "Browsers allow it only over https, or on this machine itself. You can type meanwhile.",
  },
  "mic-elsewhere": {
    title: "You are talking in another tab.",
    text: "Only one tab can have the microphone.",
    action: "steal",
  },
  "mic-taken": {
    title: "You went on talking in another tab.",
    text: "Tap the mic to talk here instead.",
  },
  "sound-none": {
    title: "There is no sound.",
    text: "Connect a loudspeaker or headphones. The agent's answers are written above.",
    action: "sound",
  },
  "sound-stopped": {
    title: "The sound has stopped.",
    text: "Another call or program may have it. Nobody is heard until it goes on.",
    action: "sound",
  },
  elsewhere: {
    title: "This conversation goes on in another place.",
    text: "It is open in another tab or on another device.",
    action: "steal",
  },
  idle: {
    title: "The session has ended.",
    text: "Nobody spoke for a while. Tap the mic or type to go on.",
    hint: true,
  },
  longest: {
    title: "The session has ended.",
    text: "It was as long as one may be. Tap the mic or type to go on.",
    hint: true,
  },
  "ends-idle": {
    title: "The session ends soon.",
    text: "Nobody speaks. Say something to stay.",
    hint: true,
  },
  "ends-longest": {
    title: "The session ends soon.",
    text: "It is as long as one may be. The conversation stays: you can go on in a new session.",
    hint: true,
  },
  "ends-daily_minutes": {
    title: "The session ends soon.",
    text: "The minutes of today are used up.",
    hint: true,
  },
  daily_minutes: {
    title: "The minutes of today are used up.",
    text: "The conversation stays: you can go on tomorrow.",
  },
  user_sessions: {
    title: "You have too many sessions open.",
    text: "End one in another tab or on another device.",
    action: "retry",
  },
  address_sessions: {
    title: "There are too many sessions from your network.",
    text: "Somebody has to end one first.",
    action: "retry",
  },
  sessions: {
    title: "All places are taken.",
    text: "As many people are talking as can at once.",
    action: "retry",
  },
  network: {
    title: "The relay cannot be reached.",
    text: "Check your connection, then try again.",
    action: "retry",
  },
  agent: {
    title: "The agent cannot be reached.",
    text: "This is not your fault. Try again in a minute.",
    action: "retry",
  },
  stopping: {
    title: "The relay is being restarted.",
    text: "Try again in a moment.",
    action: "retry",
  },
  database_unavailable: {
    title: "The history cannot be reached.",
    text: "Try again in a moment; nothing is lost.",
    action: "retry",
  },
  address_requests: {
    title: "Too much was asked for.",
    text: "Wait a few seconds, then try again.",
    action: "retry",
  },
  not_found: {
    title: "This conversation is not there any more.",
    text: "It may have been deleted.",
    action: "new",
  },
  updated: {
    title: "There is a new version of this page.",
    text: "Load it when it suits you. The conversation stays.",
    action: "load",
    hint: true,
  },
  copied: { title: "Copied.", text: "Paste it where you need it.", hint: true },
  "not-copied": { title: "It could not be copied.", text: "Your browser does not allow it here." },
  portal: {
    title: "Your network wants something from you first.",
    text: "It may ask you to sign in: open any other page, then come back.",
    action: "retry",
  },
  offline: { title: "You are offline.", text: "What was loaded before can still be read." },
  signed_out: {
    title: "You are signed out.",
    text: "Sign in again, then go on here.",
    action: "retry",
  },
  forbidden: { title: "This page may not do that.", text: "Ask who runs it." },
  too_long: { title: "That was too long.", text: `Type at most ${LONGEST} characters.` },
  too_often: { title: "That was too much at once.", text: "Wait a moment, then send it again." },
  failed: {
    title: "That did not work.",
    text: "Try again; if it stays so, load the page again.",
    action: "retry",
  },
};

/**
 * @param {{code: string, status?: number}} problem
 * @returns {Words | null} null: nothing went wrong, it just ended
 */
export function describe(problem) {
  if (["ended", "closed", "superseded"].includes(problem.code)) return null;
  if (problem.status === 401) return PROBLEMS.signed_out;
  if (problem.status === 403) return PROBLEMS.forbidden;
  if (problem.code === "agent_sessions") return PROBLEMS.sessions;
  if (problem.code === "network" && !navigator.onLine) return PROBLEMS.offline;
  if (problem.code === "user_requests") return PROBLEMS.address_requests;
  return PROBLEMS[problem.code] ?? PROBLEMS.failed;
}

/** By the status of an intent. */
const STATUSES = {
  awaiting: "Is that right?",
  submitting: "Sending",
  submitted: "Done",
  rejected: "Not accepted",
  failed: "Failed",
  cancelling: "Cancelling",
  cancelled: "Cancelled",
};

/** Sent later: nobody waits for it. */
export function isSaved({ status, result }) {
  return status === "submitting" && Boolean(result?.saved);
}

export function describeStatus(card) {
  const { status, takenBack } = card;
  if (status === "submitted" && takenBack) return "Done all the same";
  if (isSaved(card)) return "Saved, sent later";
  return STATUSES[status] ?? status;
}

/** Why a call did not go through, for people; "" when it did. */
export function describeReason(card) {
  const { status, result, takenBack } = card;
  if (status === "submitted" && takenBack) return "It was taken back too late: it has been done.";
  if (isSaved(card)) return sentence(result.because ?? "");
  if (status !== "rejected" && status !== "failed") return "";
  const error = result?.error ?? result?.detail ?? result;
  return typeof error === "string" ? sentence(error) : "";
}

/** What is shown was kept at that moment. */
export function describeCopy(moment) {
  return `The relay does not answer. This is a copy from ${when(moment).replace(/^T/, "t")}.`;
}

/**
 * How long a card still waits: for the user (`asks`), or until it is sent again.
 * @param {string} until
 * @param {boolean} asks
 */
export function describeWait(until, asks, now = Date.now()) {
  const seconds = Math.max(0, Math.ceil((Number(new Date(until)) - now) / 1000));
  const left = seconds < 90 ? `${seconds} s` : `${Math.ceil(seconds / 60)} min`;
  if (asks) return `${left} left`;
  return seconds ? `Sent again in ${left}` : "Being sent again";
}

/** @param {number} seconds */
export function describeSeconds(seconds) {
  return `${seconds.toFixed(2)} s`;
}

/** "due_date" as "Due date". */
export function label(name) {
  return capital(name.replaceAll("_", " ").toLowerCase());
}

export function when(moment, now = new Date()) {
  const then = new Date(moment);
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === now.toDateString()) return `Today, ${time}`;
  const year = then.getFullYear() === now.getFullYear() ? undefined : "numeric";
  return `${then.toLocaleDateString([], { day: "numeric", month: "long", year })}, ${time}`;
}

function sentence(text) {
  return capital(text).replace(/[^.!?…]$/, "$&.");
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
