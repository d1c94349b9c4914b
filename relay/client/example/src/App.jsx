import { useRef, useState } from "react";
import { useVoiceRelay } from "voice-relay-client/react";
import { describe, describeReason, describeStatus, label } from "voice-relay-client/words";

export default function App() {
  const meter = useRef(null);
  const relay = useVoiceRelay({
    url: "/api/v1/voice",
    onLevel: ({ side, level }) => {
      if (side === "user" && meter.current) meter.current.value = Math.sqrt(level);
    },
  });
  return (
    <main>
      <h1>Talk</h1>
      <div role="log" aria-label="What was said">
        {relay.items.map((item) =>
          item.kind === "bubble" ? (
            <p key={item.key} className={item.role} dir="auto">
              {item.lines.map((line) => line.text).join(" ")}
            </p>
          ) : (
            <Card key={item.key} card={item} relay={relay} />
          ),
        )}
      </div>
      <Problem problem={relay.problem} onSteal={relay.talkHere} />
      <p role="status">{relay.word}</p>
      <div className="controls">
        <button onClick={relay.talking ? relay.stop : relay.talk}>
          {relay.talking ? "Stop" : "Talk"}
        </button>
        {relay.talking && (
          <button onClick={relay.toggleMute} aria-pressed={relay.muted}>
            Mute
          </button>
        )}
        <meter ref={meter} max={1} aria-label="Your level" />
        {relay.live && !relay.talking && <button onClick={relay.stop}>End</button>}
        {relay.id && <button onClick={() => relay.open(null)}>New</button>}
      </div>
      <Typing onText={relay.type} />
      <Devices devices={relay.devices} onChoose={relay.choose} />
      <label>
        Volume{" "}
        <input
          type="range"
          max={1}
          step={0.05}
          value={relay.volume}
          onChange={(event) => relay.setVolume(Number(event.target.value))}
        />
      </label>
    </main>
  );
}

function Card({ card, relay }) {
  const given = typeof card.arguments === "object" ? Object.entries(card.arguments ?? {}) : [];
  return (
    <section data-status={card.status}>
      <strong>{label(card.intent ?? "unknown")}</strong> {describeStatus(card)}{" "}
      {describeReason(card)}
      <dl>
        {given.map(([name, value]) => (
          <div key={name}>
            <dt>{label(name)}</dt>
            <dd>{String(value)}</dd>
          </div>
        ))}
      </dl>
      {card.status === "awaiting" && (
        <>
          <button onClick={() => relay.decide(card.key, true)}>Yes</button>
          <button onClick={() => relay.decide(card.key, false)}>No</button>
        </>
      )}
      {card.status === "failed" && (
        <button onClick={() => relay.retry(card.key)}>Try again</button>
      )}
    </section>
  );
}

function Problem({ problem, onSteal }) {
  const words = problem && describe(problem);
  if (!words) return null;
  return (
    <p role="alert">
      <strong>{words.title}</strong> {words.text}{" "}
      {words.action === "steal" && <button onClick={onSteal}>Go on here</button>}
    </p>
  );
}

function Typing({ onText }) {
  const [text, setText] = useState("");
  const send = async (event) => {
    event.preventDefault();
    if (!text.trim()) return;
    setText("");
    if (!(await onText(text.trim()))) setText(text); // it did not arrive: it is given back
  };
  return (
    <form className="controls" onSubmit={send}>
      <input
        aria-label="Type instead of talking"
        value={text}
        onChange={(event) => setText(event.target.value)}
      />
      <button>Send</button>
    </form>
  );
}

function Devices({ devices, onChoose }) {
  const kinds = { microphone: devices.microphones, speaker: devices.speakers };
  return Object.entries(kinds).map(
    ([kind, found]) =>
      found.length > 0 && (
        <label key={kind}>
          {label(kind)}{" "}
          <select
            value={devices[kind]}
            onChange={(event) => onChoose({ [kind]: event.target.value })}
          >
            <option value="">The browser's choice</option>
            {found.map(({ id, name }) => (
              <option key={id} value={id}>
                {name}
              </option>
            ))}
          </select>
        </label>
      ),
  );
}
