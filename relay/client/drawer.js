// The list of past conversations: newest first, searched, loaded page by page.

import { element } from "./bubbles.js";
import { describe, when } from "./words.js";

const PAUSE = 250; // milliseconds after a key until we search
const SURE = 700; // milliseconds more until we say that nothing was found: the next key may come
const FALLBACK = "New conversation";
const WIDE = matchMedia("(min-width: 900px)");

export class Drawer {
  #rest;
  #parts;
  #cursor = null;
  #asked = 0; // an answer that was overtaken by a newer question is not shown
  #timer = null;
  #sure = null;
  #current = null;

  /** @param {import("./rest.js").Rest} rest @param {Record<string, HTMLElement>} parts */
  constructor(rest, parts) {
    this.#rest = rest;
    this.#parts = parts;
    const { menu, close, shade, search, more, drawer } = parts;
    menu.onclick = () => this.toggle(true);
    close.onclick = shade.onclick = () => this.toggle(false);
    drawer.onkeydown = ({ key }) => {
      if (key === "Escape") this.toggle(false); // nothing is returned: false would stop typing
    };
    search.oninput = () => {
      clearTimeout(this.#timer);
      clearTimeout(this.#sure);
      parts.note.textContent = "";
      this.#timer = setTimeout(() => this.load(), PAUSE);
    };
    more.onclick = () => this.load(this.#cursor);
    // A phone is turned: there is room for both.
    WIDE.addEventListener("change", ({ matches }) => matches && this.toggle(false));
    addEventListener("popstate", () => this.#slide(Boolean(history.state?.drawer)));
    if (history.state?.drawer) history.replaceState(null, ""); // the page was loaded again
  }

  /** On a phone: slide it in, or out. Back closes it, too. */
  toggle(open) {
    if (this.#isOpen === open) return;
    if (open) history.pushState({ drawer: true }, "");
    else if (history.state?.drawer) history.back();
    this.#slide(open);
  }

  /** Another address of the page: Back leads to where we are, not into the list. */
  go(url) {
    if (history.state?.drawer) history.replaceState(null, "", url);
    else history.pushState(null, "", url);
    this.#slide(false);
    dispatchEvent(new Event("hashchange"));
  }

  get #isOpen() {
    return this.#parts.drawer.classList.contains("open");
  }

  #slide(open) {
    const { drawer, shade, menu, search, page } = this.#parts;
    if (this.#isOpen === open) return;
    drawer.classList.toggle("open", open);
    shade.hidden = !open;
    page.inert = open;
    menu.setAttribute("aria-expanded", String(open));
    if (open) search.focus();
    else menu.focus();
  }

  /** The first page, or the one at `cursor`. */
  async load(cursor = null) {
    const asked = ++this.#asked;
    clearTimeout(this.#sure);
    const { note, search } = this.#parts;
    let page;
    try {
      page = await this.#rest.conversations({ q: search.value.trim(), cursor });
    } catch (error) {
      if (asked === this.#asked) note.textContent = describe(error)?.title ?? "";
      return;
    }
    if (asked !== this.#asked) return;
    const show = () => this.#show(page, cursor);
    if (page.items.length || cursor || !search.value.trim()) show();
    else this.#sure = setTimeout(show, SURE);
  }

  #show(page, cursor) {
    const { list, more, note, search } = this.#parts;
    const items = page.items.map((each) => this.#item(each));
    if (cursor) list.append(...items);
    else list.replaceChildren(...items);
    this.#cursor = page.next_cursor;
    more.hidden = !page.next_cursor;
    const none = search.value.trim() ? "Nothing was found." : "Nothing yet.";
    note.textContent = list.children.length ? "" : none;
    this.mark(this.#current);
  }

  /** This conversation is open. */
  mark(id) {
    this.#current = id;
    for (const link of this.#parts.list.querySelectorAll("a")) {
      if (link.dataset.id === id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  #item({ id, title, updated_at: updated, found }) {
    const link = element("a");
    link.href = `#${id}`;
    link.dataset.id = id;
    link.onclick = (event) => {
      if (!this.#isOpen) return; // a link as any other
      event.preventDefault();
      this.go(`#${id}`);
    };
    const time = element("time", "", when(updated));
    time.dateTime = updated;
    const name = marked("name", found?.title ?? [title ?? FALLBACK]);
    link.append(name, ...(found?.line ? [marked("line", found.line)] : []), time);
    const item = element("li");
    item.append(link);
    return item;
  }
}

/** A text in parts, of which every second was looked for. */
function marked(look, parts) {
  const shown = element("span", look);
  shown.dir = "auto";
  shown.append(...parts.map((part, n) => (n % 2 ? element("mark", "", part) : part)));
  return shown;
}
