// The transcript as people see it: bubbles and cards, each node made once and kept up to date.

import { describeReason, describeStatus, describeWait, isSaved, label, when } from "./words.js";

const NEAR = 80; // pixels from the end: whoever reads there wants to see what comes

const LINK = /https?:\/\/[^\s<>"']*[^\s<>"'.,;:!?)\]}]/g; // without what ends a sentence

export class Bubbles {
  /** Something new is out of sight, below. */
  onBehind = () => {};
  #height = 0;
  #nodes = new Map(); // key of an item to its node
  #atEnd = true;
  #titles = new Map(); // name of an intent to its title

  #clock = null; // runs while a card waits for the user

  /**
   * @param {HTMLElement} place @param {HTMLElement} scroller
   * @param {{onRetry: (card) => Promise<void>, onDecide: (card, wanted: boolean) => Promise<void>,
   *   onCopy: (text: string) => void}} taps
   */
  constructor(place, scroller, { onRetry, onDecide, onCopy }) {
    this.place = place;
    this.scroller = scroller;
    this.onRetry = onRetry;
    this.onDecide = onDecide;
    place.onclick = ({ target }) => {
      const bubble = target.closest(".bubble");
      if (target.closest(".meta button")) return onCopy(bubble.dataset.text);
      if (target.closest("a") || !getSelection().isCollapsed) return; // that is no tap
      bubble?.classList.toggle("detailed");
      this.#follow();
    };
    scroller.onscroll = () => (this.#atEnd = isAtEnd(scroller));
    // A keyboard or a notice takes room: what was said last stays in sight.
    new ResizeObserver(() => this.#follow()).observe(scroller);
  }

  /** The registry: `[{name, title}]`. */
  name(intents) {
    this.#titles = new Map(intents.map(({ name, title }) => [name, title]));
  }

  /** @param {ReturnType<import("./transcript.js").Transcript["items"]>} items */
  show(items) {
    const gone = new Set(this.#nodes.keys());
    let before = null;
    for (const item of items) {
      gone.delete(item.key);
      const node = this.#node(item);
      if (item.kind === "bubble") fillBubble(node, item);
      else this.#fillCard(node, item);
      const next = before ? before.nextSibling : this.place.firstChild;
      if (next !== node) this.place.insertBefore(node, next);
      before = node;
    }
    this.#tick();
    for (const key of gone) {
      this.#nodes.get(key).remove();
      this.#nodes.delete(key);
    }
    this.#follow();
  }

  get atEnd() {
    return this.#atEnd;
  }

  toEnd() {
    this.#atEnd = true;
    this.#follow();
  }

  #follow() {
    const { scrollHeight } = this.scroller;
    if (this.#atEnd) this.scroller.scrollTop = scrollHeight;
    else if (scrollHeight > this.#height) this.onBehind();
    this.#height = scrollHeight;
  }

  #node(item) {
    let node = this.#nodes.get(item.key);
    if (!node) {
      node = item.kind === "bubble" ? element("div", `bubble ${item.role}`) : element("article", "card");
      this.#nodes.set(item.key, node);
    }
    return node;
  }

  #fillCard(node, card) {
    const { until, takenBack } = card;
    const shown = JSON.stringify([card.status, card.result, card.arguments, until, takenBack]);
    if (node.dataset.shown === shown) return;
    node.dataset.shown = shown;
    node.dataset.status = card.status;
    const head = element("div", "card-head");
    const title = this.#titles.get(card.intent) ?? label(card.intent ?? "unknown");
    head.append(element("h2", "", title), element("span", "chip", describeStatus(card)));
    const parts = [head];
    const given = card.arguments;
    if (given && typeof given === "object" && Object.keys(given).length) {
      const list = element("dl");
      for (const [name, value] of Object.entries(given)) {
        const text = typeof value === "object" ? JSON.stringify(value) : String(value);
        list.append(element("dt", "", label(name)), element("dd", "", text));
      }
      parts.push(list);
    }
    const reason = describeReason(card);
    if (reason) parts.push(element("p", "why", reason));
    if (card.status === "failed") {
      const retry = element("button", "plain", "Try again");
      retry.type = "button";
      retry.onclick = async () => {
        retry.disabled = true;
        await this.onRetry(card);
        retry.disabled = false;
      };
      parts.push(retry);
    }
    if (card.status === "awaiting") parts.push(this.#question(card, title));
    if (isSaved(card) && until) parts.push(makeWait("p", until));
    node.replaceChildren(...parts);
  }

  /** Two buttons, and how long they are there. */
  #question(card, title) {
    const row = element("div", "question");
    const buttons = [
      [true, "Confirm", "solid"],
      [false, "Cancel", "plain"],
    ].map(([wanted, name, look]) => {
      const button = element("button", look, name);
      button.type = "button";
      button.setAttribute("aria-label", `${name}: ${title}`);
      button.onclick = async () => {
        for (const one of buttons) one.disabled = true;
        const taken = await this.onDecide(card, wanted);
        for (const one of buttons) one.disabled = taken;
      };
      return button;
    });
    row.append(...buttons);
    if (card.until) row.append(makeWait("span", card.until, true));
    return row;
  }

  /** The time that is left, once a second while there is any. */
  #tick() {
    const waiting = this.place.querySelectorAll(".left");
    for (const left of waiting) {
      const { until, asks } = left.dataset;
      left.textContent = describeWait(until, asks === "true");
    }
    if (waiting.length && this.#clock === null) {
      this.#clock = setInterval(() => this.#tick(), 1000);
    } else if (!waiting.length) {
      clearInterval(this.#clock);
      this.#clock = null;
    }
  }
}

/** Where the time that is left is shown; `asks`: the user is waited for. */
function makeWait(name, until, asks = false) {
  const left = element(name, "left");
  Object.assign(left.dataset, { until, asks });
  return left;
}

function fillBubble(node, { role, lines }) {
  const text = lines.map((line) => line.text).join(" ");
  const saved = lines.every((line) => line.seq !== null);
  const pending = lines.some((line) => line.pending);
  node.classList.toggle("pending", pending);
  if (node.dataset.text !== text) {
    node.dataset.text = text;
    const who = element("span", "unseen", role === "user" ? "You: " : "Agent: ");
    node.dir = "auto";
    who.dir = "ltr"; // so that it does not count
    node.replaceChildren(who, ...linked(text));
    delete node.dataset.meta;
  }
  const tick = node.querySelector(".tick");
  if (saved && !tick) node.append(makeTick());
  if (!saved) tick?.remove();
  const { at } = lines[0];
  const meta = at ? `${at} ${saved}` : "";
  if (node.dataset.meta === meta) return;
  node.dataset.meta = meta;
  node.querySelector(".meta")?.remove();
  if (at) node.append(makeMeta(at, saved));
}

/** What is shown on demand: when it was said, whether it is stored, a way to copy it. */
function makeMeta(at, saved) {
  const meta = element("span", "meta");
  meta.dir = "ltr";
  const time = element("time", "", saved ? `${when(at)} · stored` : when(at));
  time.dateTime = at;
  meta.append(time);
  if (navigator.clipboard) {
    const copy = element("button", "", "Copy");
    copy.type = "button";
    meta.append(copy);
  }
  return meta;
}

/** A text with its links. */
function linked(text) {
  const parts = [];
  let at = 0;
  for (const { 0: url, index } of text.matchAll(LINK)) {
    const link = element("a", "", url);
    Object.assign(link, { href: url, target: "_blank", rel: "noopener noreferrer nofollow" });
    parts.push(text.slice(at, index), link);
    at = index + url.length;
  }
  return [...parts, text.slice(at)];
}

function isAtEnd({ scrollHeight, scrollTop, clientHeight }) {
  return scrollHeight - scrollTop - clientHeight < NEAR;
}

function makeTick() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "tick");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true"); // once a turn would be too much: `meta` has it
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", "M5 13l5 5L20 6");
  svg.append(path);
  return svg;
}

/** An element with a class and a text. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
