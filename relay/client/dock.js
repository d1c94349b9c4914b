// The lower edge of the page: the mic, mute, the text field, the state word, both levels, notices.

import { ACTIONS, LONGEST } from "./words.js";

const AWAY = { offline: "offline", reconnecting: "reconnecting" };
const LOUD = 0.18; // root mean square of speech near a microphone: the meter is full
const STEPS = 20; // of a meter
const REDRAW = 60; // milliseconds: it is for the eye
const NEARLY = 0.9; // of what may be typed: from here on it is counted
// The space bar has a meaning of its own here; and while these are open the page is behind them.
const TAKERS = "input, textarea, select, button, a, summary, dialog, [contenteditable]";
const ABOVE = "dialog[open], .drawer.open";

export class Dock {
  #parts;
  #word = "";
  #about = ""; // the code of the problem that is shown
  #clock = null;
  #shown = { user: { share: 0, at: 0 }, agent: { share: 0, at: 0 } };

  /**
   * @param {Record<string, HTMLElement>} parts
   * @param {{onTalk: () => void, onMute: () => void, onHush: () => void,
   *   onText: (text: string) => void, onLong: () => void}} handlers `onHush`: the agent is to be
   *   silent; `onLong`: more was typed than can be sent at once
   */
  constructor(parts, { onTalk, onMute, onHush, onText, onLong }) {
    this.#parts = parts;
    const { mic, mute, hush, typing, text, close } = parts;
    mic.onclick = onTalk;
    hush.onclick = () => {
      mic.focus(); // this button goes
      onHush();
    };
    mute.onclick = onMute;
    close.onclick = () => this.notice(null);
    const send = () => {
      const typed = text.value.trim();
      if (count(typed) > LONGEST) return onLong();
      this.#write("");
      if (typed) onText(typed);
    };
    typing.onsubmit = (event) => {
      event.preventDefault();
      send();
    };
    text.oninput = () => this.#fit();
    text.onkeydown = (event) => {
      // Enter sends, with Shift it is a new line; in an input method (229) it chooses a word.
      const { key, shiftKey, isComposing, keyCode } = event;
      if (key !== "Enter" || shiftKey || isComposing || keyCode === 229) return;
      event.preventDefault();
      send();
    };
    document.addEventListener("keydown", (event) => {
      const { code, target, repeat, ctrlKey, altKey, metaKey } = event;
      if (repeat || ctrlKey || altKey || metaKey || document.querySelector(ABOVE)) return;
      if (code === "Escape" && !hush.hidden) onHush();
      if (code !== "Space" || target.closest(TAKERS) || scrolls(target.closest("main"))) return;
      event.preventDefault();
      onTalk();
    });
  }

  /** @param {{word: string, live: boolean, talking: boolean, muted: boolean}} now */
  show({ word, live, talking, muted }) {
    const { mic, mute, hush, word: shown, away } = this.#parts;
    document.body.toggleAttribute("data-live", live);
    document.body.dataset.word = word;
    mic.setAttribute("aria-pressed", String(talking));
    mic.setAttribute("aria-label", talking ? "Stop talking" : "Talk");
    mute.hidden = !talking;
    hush.hidden = word !== "speaking";
    mute.setAttribute("aria-pressed", String(muted));
    if (!talking) this.userLevel(0);
    if (!live) this.agentLevel(0);
    if (word === this.#word) return;
    // Told to a screen reader: only that the connection is lost, and that it is back.
    if (word in AWAY || this.#word in AWAY) away.textContent = AWAY[word] ?? "connected";
    shown.textContent = this.#word = word;
  }

  userLevel(level) {
    this.#level("user", level, [this.#parts.meterUser, this.#parts.mic]);
  }

  agentLevel(level) {
    this.#level("agent", level, [this.#parts.meterAgent]);
  }

  /** Levels come with every frame of audio; they are drawn when one can be seen to differ. */
  #level(side, level, nodes) {
    const share = Math.round(Math.min(1, level / LOUD) * STEPS) / STEPS;
    const now = performance.now();
    if (share === this.#shown[side].share || (share && now - this.#shown[side].at < REDRAW)) return;
    this.#shown[side] = { share, at: now };
    for (const node of nodes) node.style.setProperty("--level", String(share));
  }

  /** Put back what could not be sent, if nothing else was typed meanwhile. */
  giveBack(typed) {
    if (!this.#parts.text.value) this.#write(typed);
  }

  /** It is sent again after all. */
  take(typed) {
    if (this.#parts.text.value === typed) this.#write("");
  }

  #write(typed) {
    this.#parts.text.value = typed;
    this.#fit();
  }

  /** As many lines as there are; what is too long is counted. */
  #fit() {
    const { text, count: shown } = this.#parts;
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
    const length = count(text.value.trim());
    shown.hidden = length < LONGEST * NEARLY;
    shown.textContent = shown.hidden ? "" : `${length} / ${LONGEST}`;
    shown.classList.toggle("over", length > LONGEST);
  }

  /**
   * @param {import("./words.js").Words | null} words null: none any more
   * @param {Record<string, () => void>} [actions] by their names in words.js: what can be done
   * @param {{about?: string, wait?: number}} [more] the code of the problem; seconds until it makes
   *   sense to do something
   */
  notice(words, actions = {}, { about = "", wait = 0 } = {}) {
    const { notice, title, detail, action, alert } = this.#parts;
    clearInterval(this.#clock);
    this.#about = about;
    notice.hidden = words === null;
    // Of what appears together with its text a screen reader says nothing: that is always there.
    alert.textContent = words ? `${words.title} ${words.text}` : "";
    if (words === null) return;
    notice.classList.toggle("hint", words.hint ?? false);
    title.textContent = words.title;
    detail.textContent = words.text;
    const run = actions[words.action];
    action.hidden = !run;
    action.onclick = () => {
      this.notice(null);
      run();
    };
    if (run) this.#countDown(ACTIONS[words.action], wait);
  }

  /** These problems are none any more. */
  solved(codes) {
    if (codes.includes(this.#about)) this.notice(null);
  }

  #countDown(name, wait) {
    const { action } = this.#parts;
    const end = performance.now() + wait * 1000;
    const show = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      action.disabled = left > 0;
      action.textContent = left > 0 ? `${name} in ${left} s` : name;
      if (left <= 0) clearInterval(this.#clock);
    };
    this.#clock = setInterval(show, 250); // a browser's timers may be late
    show();
  }
}

function scrolls(node) {
  return node !== null && node.scrollHeight > node.clientHeight;
}

/** Characters as the relay counts them. */
function count(text) {
  return [...text].length;
}
