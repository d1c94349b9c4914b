// Which microphone and which loudspeaker: chosen from two lists, kept by the browser.

import { element } from "./bubbles.js";
import { canChooseSpeaker, listDevices } from "./media_devices.js";
import { recall, remember } from "./storage.js";
import { DEVICES } from "./words.js";

export class Devices {
  #parts;
  #onChange;

  /**
   * @param {{microphone: HTMLSelectElement, speaker: HTMLSelectElement, note: HTMLElement}} parts
   * @param {(chosen: {microphone: string, speaker: string}) => void} onChange something was chosen,
   *   or a device came or went; "" is the browser's own choice
   */
  constructor(parts, onChange) {
    this.#parts = parts;
    this.#onChange = onChange;
    parts.speaker.closest("label").hidden = !canChooseSpeaker;
    for (const name of ["microphone", "speaker"]) {
      parts[name].onchange = () => {
        remember(`relay.${name}`, parts[name].value);
        this.look();
      };
    }
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.look());
  }

  /** What is liked best, as far as it is there. */
  async look() {
    const devices = await listDevices();
    this.#fill("microphone", devices, "audioinput");
    const here = this.#fill("speaker", devices, "audiooutput");
    const microphone = recall("relay.microphone") ?? "";
    const speaker = here ? (recall("relay.speaker") ?? "") : "";
    this.#parts.note.hidden = devices.length > 0;
    this.#onChange({ microphone, speaker });
  }

  /** Returns whether the kept one is there. */
  #fill(name, devices, kind) {
    const select = this.#parts[name];
    const kept = recall(`relay.${name}`) ?? "";
    const here = devices.filter((device) => device.kind === kind);
    const shown = [["", DEVICES.own], ...here.map(({ deviceId, label }) => [deviceId, label])];
    if (!shown.some(([id]) => id === kept)) shown.push([kept, DEVICES.gone]);
    select.replaceChildren(
      ...shown.map(([id, text]) => Object.assign(element("option", "", text), { value: id })),
    );
    select.value = kept;
    return here.some(({ deviceId }) => deviceId === kept);
  }
}
