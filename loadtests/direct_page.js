// The page of the direct arm: it talks to the agent itself, as clients of Deepgram do. A token by POST,
// the WebSocket, Welcome, Settings, SettingsApplied. Microphone, loudspeaker and the order in which
// things are begun are those of the page of the relay: nothing waits that need not wait.

import { Microphone } from "./microphone.js";
import { Rest } from "./rest.js";
import { Sound, Speaker } from "./speaker.js";

const RATE = { microphone: 16_000, speaker: 24_000 };

const sound = new Sound();
const speaker = new Speaker(() => {});
const microphone = new Microphone((frame) => socket?.readyState === 1 && socket.send(frame));
const rest = new Rest();
const settings = await (await fetch("settings")).text();
/** @type {WebSocket | null} */
let socket = null;

sound.prepare();
addEventListener("pointerdown", () => rest.expect());
document.getElementById("mic").onclick = () => (socket ? stop() : talk());
document.body.dataset.word = "ready";

async function talk() {
  const output = sound.open();
  const asked = microphone.ask();
  output.then((context) => speaker.start(context, RATE.speaker));
  const answer = await fetch("token", { method: "POST" });
  const { access_token: token, agent_url: url } = await answer.json();
  socket = new WebSocket(url, ["bearer", token]);
  socket.binaryType = "arraybuffer";
  socket.onmessage = async ({ data }) => {
    if (typeof data !== "string") return speaker.play(data);
    const { type } = JSON.parse(data);
    if (type === "Welcome") socket?.send(settings);
    if (type !== "SettingsApplied") return;
    await asked;
    microphone.start(await output, RATE.microphone);
    document.body.dataset.word = "listening";
  };
}

function stop() {
  socket?.close(1000);
  socket = null;
  speaker.stop();
  microphone.stop();
  document.body.dataset.word = "ready";
}
