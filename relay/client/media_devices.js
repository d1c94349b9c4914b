// Microphones and loudspeakers, as far as the browser names them.

const ALIASES = new Set(["", "default", "communications"]); // of a device that is listed anyway

export const canChooseSpeaker = "setSinkId" in (globalThis.AudioContext?.prototype ?? {});

/** Those with a name: before the microphone was allowed there are none. */
export async function listDevices() {
  try {
    const devices = await navigator.mediaDevices.enumerateDevices();
    return devices.filter(({ deviceId, label }) => label && !ALIASES.has(deviceId));
  } catch {
    return []; // plain http, or a policy
  }
}
