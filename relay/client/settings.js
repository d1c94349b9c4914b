// How it sounds and looks for this user: volume, captions, times. Kept by the browser, and at once.

import { recall, remember } from "./storage.js";
import { describeSeconds } from "./words.js";

const LOUDEST = 100;

export class Settings {
  #parts;

  /**
   * @param {Record<string, HTMLElement>} parts
   * @param {(volume: number) => void} onVolume from 0 to 1
   */
  constructor(parts, onVolume) {
    this.#parts = parts;
    const { volume, captions, times } = parts;
    keep(volume, "relay.volume", () => onVolume((volume.value / LOUDEST) ** 2)); // as ears have it
    keep(captions, "relay.captions", () => {
      document.body.dataset.captions = captions.value;
    });
    keep(times, "relay.times", () => document.body.toggleAttribute("data-times", times.checked));
  }

  /** Where the time of the last turn went. @param {import("./latency.js").Spent | null} spent */
  showLatency(spent) {
    const { latency } = this.#parts;
    latency.hidden = spent === null;
    for (const [name, seconds] of Object.entries(spent ?? {})) {
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
