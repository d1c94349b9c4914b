// The REST of administrators. The key is in this module and nowhere else.

const PATIENCE = 60_000; // milliseconds: erasing waits for sessions and files

let key = "";

/** From now on this key is shown; "" forgets it. */
export function use(given) {
  key = given;
}

/** An answer that is an error, or none (`status` 0). */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The answer as JSON, null if it is empty. `query` may have undefined values. */
export async function ask(method, path, { query = {}, body } = {}) {
  const answer = await send(method, path, query, body);
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

/** The answer as a file. */
export async function load(path, query = {}, root = "admin/api") {
  return (await send("GET", path, query, undefined, root)).blob();
}

async function send(method, path, query, body, root = "admin/api") {
  const given = Object.entries(query).filter(([, value]) => value);
  const headers = { Authorization: `Bearer ${key}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`${root}${path}?${new URLSearchParams(given)}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
  } catch (error) {
    throw new Problem(0, `The relay does not answer: ${error.message}`);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, said.detail ?? `status ${answer.status}`);
}
