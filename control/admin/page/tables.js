// What is shown: tables and lists, made anew with each answer; what has the focus keeps it.

export const SHORT = 8; // letters of an id that people need to tell it from others

export function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

/** When it was, for people here. */
export function when(text) {
  return text ? new Date(text).toLocaleString() : "–";
}

/**
 * @param {HTMLElement} place
 * @param {[string, (item: any) => string, string?][]} columns title, text, class of the cell
 * @param {any[]} items each with an `id`
 * @param {(item: any) => [string, () => void, string?][]} acts buttons: text, what they do, class
 */
export function showTable(place, columns, items, acts = () => []) {
  const focused = place.contains(document.activeElement) && document.activeElement.dataset.key;
  if (!items.length) {
    place.replaceChildren(element("p", "quiet", "None."));
    return;
  }
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const [title] of columns) {
    const cell = element("th", "", title);
    cell.scope = "col";
    head.append(cell);
  }
  const hasActs = acts(items[0]).length > 0 || items.some((item) => acts(item).length);
  if (hasActs) head.append(element("td"));
  const body = table.createTBody();
  for (const item of items) {
    const row = body.insertRow();
    for (const [, text, className] of columns) {
      const cell = element("td", className, text(item));
      if (className === "id") cell.title = item.id;
      row.append(cell);
    }
    if (hasActs) row.append(makeActs(item, acts(item)));
  }
  place.replaceChildren(table);
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function makeActs(item, acts) {
  const cell = element("td", "acts");
  for (const [text, act, className = ""] of acts) {
    const button = element("button", `plain ${className}`, text);
    button.type = "button";
    button.dataset.key = `${text} ${item.id}`;
    button.setAttribute("aria-label", `${text} ${item.id}`);
    button.onclick = act;
    cell.append(button);
  }
  return cell;
}

/** Pairs of a name and a text; with a true third one it is bad news. */
export function showPairs(place, pairs) {
  place.replaceChildren(
    ...pairs.flatMap(([name, text, isBad]) => [
      element("dt", "", name),
      element("dd", isBad ? "bad" : "", String(text)),
    ]),
  );
}
