// What the browser keeps for us. One that keeps nothing, with its cookies blocked, is no reason to
// stop: there every access throws, and what was wished for holds for this page.

const MINE = new Map();

/** @param {"localStorage" | "sessionStorage"} place @returns {string | null} */
export function recall(name, place = "localStorage") {
  try {
    return globalThis[place].getItem(name);
  } catch {
    return MINE.get(name) ?? null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    MINE.set(name, value);
  }
}
