// @deepgram/sdk in Node, as its README uses it: one JSON line for each thing that happens.
// node sdk.mjs HTTP_URL TICKET apiKey|accessToken WAV
import { readFileSync } from "node:fs";
import { DeepgramClient } from "@deepgram/sdk";

const [base, ticket, credential, wav] = process.argv.slice(2);
const tell = (what) => console.log(JSON.stringify(what));
const ws = base.replace("http", "ws");
const client = new DeepgramClient({
  [credential]: ticket,
  environment: { base, production: ws, agent: ws, agentRest: base },
});

const connection = await client.agent.v1.connect({ reconnectAttempts: 3 });
let audio = 0;
let spoken = false;
connection.on("message", async (data) => {
  if (data instanceof Blob) return void (audio += data.size);
  tell(data);
  if (data.type === "AgentAudioDone" && !spoken) speak(); // after the greeting
  if (data.content === "What else?") connection.close();
});
connection.on("error", (error) => tell({ type: "(error)", text: String(error.message ?? error) }));
connection.on("close", (event) => tell({ type: "(close)", code: event.code, audio }));
connection.connect();
await connection.waitForOpen();

connection.sendSettings({
  type: "Settings",
  audio: {
    input: { encoding: "linear16", sample_rate: 16000 },
    output: { encoding: "linear16", sample_rate: 16000, container: "wav" },
  },
  agent: {
    language: "en",
    listen: { provider: { type: "deepgram", version: "v1", model: "nova-3" } },
    think: {
      provider: { type: "open_ai", model: "gpt-4o-mini" },
      prompt: "You are a friendly AI assistant.",
    },
    speak: { provider: { type: "deepgram", model: "aura-2-thalia-en" } },
  },
});
connection.sendMedia(new Uint8Array(4096)); // at once: the relay keeps it until it can be heard

function speak() {
  spoken = true;
  const samples = readFileSync(wav).subarray(44);
  for (let at = 0; at < samples.length; at += 4096) {
    connection.sendMedia(samples.subarray(at, at + 4096));
  }
}
