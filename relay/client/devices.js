// Which microphone and which loudspeaker: chosen from two lists, kept by the browser.

import { canChooseSpeaker } from "./media_devices.js";
import { recall, remember } from "./storage.js";
import { DEVICES } from "./words.js";

const KINDS = ["microphone", "speaker"];

export class Devices {
  #parts;
  /** @type {import("./conversation.js").Devices | null} */
  #shown = null;

  /**
   * @param {{microphone: HTMLSelectElement, speaker: HTMLSelectElement, note: HTMLElement}} parts
   * @param {(chosen: {microphone?: string, speaker?: string}) => void} onChoice "" is the browser's
   *   own choice; told once at the beginning, too
   */
  constructor(parts, onChoice) {
    this.#parts = parts;
    parts.speaker.closest("label").hidden = !canChooseSpeaker;
    for (const kind of KINDS) {
      parts[kind].onchange = ({ target }) => {
        remember(`relay.${kind}`, target.value);
        onChoice({ [kind]: target.value });
      };
    }
    onChoice(Object.fromEntries(KINDS.map((kind) => [kind, recall(`relay.${kind}`) ?? ""])));
  }

  /** @param {import("./conversation.js").Devices} devices */
  show(devices) {
    if (devices === this.#shown) return;
    this.#shown = devices;
    for (const kind of KINDS) fill(this.#parts[kind], devices[`${kind}s`], devices[kind]);
    this.#parts.note.hidden = devices.microphones.length > 0;
  }
}

/** One that was chosen and is not connected is listed, too. */
function fill(select, devices, chosen) {
  const shown = [["", DEVICES.own], ...devices.map(({ id, name }) => [id, name])];
  if (!shown.some(([id]) => id === chosen)) shown.push([chosen, DEVICES.gone]);
  select.replaceChildren(...shown.map(([id, name]) => new Option(name, id)));
  select.value = chosen;
}
