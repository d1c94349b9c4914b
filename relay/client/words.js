// What people read: problems in words, each with what to do about it; names and dates.

/** @typedef {{title: string, text: string, action?: "retry" | "steal"}} Words */

/** By the `code` of a problem. @type {Record<string, Words>} */
const PROBLEMS = {
  "mic-refused": {
    title: "The microphone is blocked.",
    text: "Allow it for this page in your browser's settings, then tap the mic again. You can type meanwhile.",
  },
  "mic-missing": {
    title: "No microphone was found.",
    text: "Connect one and tap the mic again. You can type meanwhile.",
  },
  "mic-busy": {
    title: "The microphone cannot be used.",
    text: "Another program may have it. Close that one, then tap the mic again.",
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
  elsewhere: {
    title: "This conversation goes on in another place.",
    text: "Tap the mic to talk here instead.",
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
    text: "It may have been deleted. Begin a new one.",
  },
  offline: { title: "You are offline.", text: "What was loaded before can still be read." },
  signed_out: { title: "You are signed out.", text: "Sign in again, then come back." },
  too_long: { title: "That was too long.", text: "Type at most 4000 characters." },
  failed: { title: "That did not work.", text: "Try again; if it stays so, load the page again." },
};

/** @returns {Words | null} null: nothing went wrong, it just ended */
export function describe(problem) {
  if (problem.code === "ended" || problem.code === "closed") return null;
  if (problem.status === 401 || problem.status === 403) return PROBLEMS.signed_out;
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

export function describeStatus({ status, result, takenBack }) {
  if (status === "submitted" && takenBack) return "Done all the same";
  if (status === "submitting" && result?.saved) return "Saved, sent later";
  return STATUSES[status] ?? status;
}

/** Why a call did not go through, for people; "" when it did. */
export function describeReason({ status, result, takenBack }) {
  if (status === "submitted" && takenBack) return "It was taken back too late: it has been done.";
  if (status === "submitting" && result?.saved) return capital(result.because ?? "");
  if (status !== "rejected" && status !== "failed") return "";
  const error = result?.error ?? result?.detail ?? result;
  return typeof error === "string" ? capital(error) : "";
}

/** How long a card still waits. */
export function describeWait(until, now = Date.now()) {
  const seconds = Math.max(0, Math.ceil((new Date(until) - now) / 1000));
  return seconds < 90 ? `${seconds} s left` : `${Math.ceil(seconds / 60)} min left`;
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

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
