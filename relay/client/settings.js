// How it sounds and looks for this user: volume, captions, times. Kept by the browser, and at once.

import { recall, remember } from "./storage.js";
import { AGENTS_OWN, describeSeconds, label } from "./words.js";

const LOUDEST = 100;

export class Settings {
  #parts;
  #on;

  /**
   * @param {Record<string, HTMLElement>} parts
   * @param {object} on
   * @param {(volume: number) => void} on.volume from 0 to 1
   * @param {(chosen: {voice?: string, language?: string, record?: boolean}) => void} on.choice for the next session;
   *   "" is the agent's own
   */
  constructor(parts, on) {
    this.#parts = parts;
    this.#on = on;
    const { volume, captions, times } = parts;
    keep(volume, "relay.volume", () => on.volume((volume.value / LOUDEST) ** 2)); // as ears have it
    keep(captions, "relay.captions", () => {
      document.body.dataset.captions = captions.value;
    });
    keep(times, "relay.times", () => document.body.toggleAttribute("data-times", times.checked));
  }

  /**
   * What the relay lets people choose.
   * @param {{voices: string[], languages: string[], record?: boolean}} offered
   */
  offer({ voices, languages, record: mayRecord = false }) {
    const { voice, language, record } = this.#parts;
    record.closest("label").hidden = !mayRecord;
    if (mayRecord) keep(record, "relay.record", () => this.#on.choice({ record: record.checked }));
    for (const [name, select, names] of [["voice", voice, voices], ["language", language, languages]]) {
      select.closest("label").hidden = names.length === 0;
      select.replaceChildren(
        ...["", ...names].map((value) => new Option(value ? label(value) : AGENTS_OWN, value)),
      );
      keep(select, `relay.${name}`, () => this.#on.choice({ [name]: select.value }));
      if (select.selectedIndex < 0) select.value = ""; // what was kept is not offered any more
    }
  }

  /** Where the time of the last turn went. @param {import("./latency.js").Spent} spent */
  showLatency(spent) {
    const { latency } = this.#parts;
    latency.hidden = false;
    for (const [name, seconds] of Object.entries(spent)) {
      latency.querySelector(`[data-part=${name}]`).textContent = describeSeconds(seconds);
    }
  }
}

/** A control that shows what was chosen last; `apply` is called now, and when that changes. */
function keep(control, name, apply) {
  const property = control.type === "checkbox" ? "checked" : "value";
  const kept = recall(name);
  if (kept !== null) control[property] = property === "checked" ? kept === "true" : kept;
  control.oninput = () => {
    remember(name, String(control[property]));
    apply();
  };
  apply();
}
