// A relay as most people write it for Node.js: its library ws on both sides, everything passed on.
// Load tests: something to compare with. It adds the key and looks at nothing.

const { WebSocket, WebSocketServer } = require("ws");

const AGENT_URL = process.env.DEEPGRAM_AGENT_URL;
const KEY = process.env.DEEPGRAM_API_KEY;

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.env.PORT),
  path: "/v1/agent/converse",
});

server.on("connection", (browser) => {
  const agent = new WebSocket(AGENT_URL, { headers: { Authorization: `Token ${KEY}` } });

  const passOn = (from, to) => {
    from.on("message", (data, isBinary) => {
      if (to.readyState === WebSocket.OPEN) to.send(data, { binary: isBinary });
    });
    from.on("close", () => to.close());
    from.on("error", (error) => {
      console.error(error.message);
      to.close();
    });
  };

  passOn(browser, agent);
  passOn(agent, browser);
});
