// Which microphone and which loudspeaker: chosen in a dialog, kept by the browser.

import { element } from "./bubbles.js";
import { ask } from "./dialog.js";
import { canChooseSpeaker, listDevices } from "./media_devices.js";
import { recall, remember } from "./storage.js";
import { DEVICES } from "./words.js";

export class Devices {
  #parts;
  #onChange;

  /**
   * @param {Record<string, HTMLElement>} parts
   * @param {(chosen: {microphone: string, speaker: string}) => void} onChange something was chosen,
   *   or a device came or went; "" is the browser's own choice
   */
  constructor(parts, onChange) {
    this.#parts = parts;
    this.#onChange = onChange;
    parts.speaker.closest("label").hidden = !canChooseSpeaker;
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.look());
  }

  /** What is liked best, as far as it is there. */
  async look() {
    const devices = await listDevices();
    this.#fill(this.#parts.microphone, "relay.microphone", devices, "audioinput");
    const here = this.#fill(this.#parts.speaker, "relay.speaker", devices, "audiooutput");
    const microphone = recall("relay.microphone") ?? "";
    const speaker = here ? (recall("relay.speaker") ?? "") : "";
    this.#parts.note.hidden = devices.length > 0;
    this.#onChange({ microphone, speaker });
  }

  async open() {
    const { dialog, microphone, speaker } = this.#parts;
    await this.look();
    if (!(await ask(dialog))) return;
    remember("relay.microphone", microphone.value);
    if (canChooseSpeaker) remember("relay.speaker", speaker.value);
    await this.look();
  }

  /** Returns whether the kept one is there. */
  #fill(select, name, devices, kind) {
    const kept = recall(name) ?? "";
    const open = this.#parts.dialog.open && select.options.length > 0;
    const chosen = open ? select.value : kept;
    const here = devices.filter((device) => device.kind === kind);
    const shown = [["", DEVICES.own], ...here.map(({ deviceId, label }) => [deviceId, label])];
    if (!shown.some(([id]) => id === chosen)) shown.push([chosen, DEVICES.gone]);
    select.replaceChildren(
      ...shown.map(([id, text]) => Object.assign(element("option", "", text), { value: id })),
    );
    select.value = chosen;
    return here.some(({ deviceId }) => deviceId === kept);
  }
}
