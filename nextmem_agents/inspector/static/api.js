// Asking the server. The token is read from the address once, leaves it at once, and is kept for this tab only.

const KEY = "nextmem-inspector-token";

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("token")) {
    sessionStorage.setItem(KEY, given.get("token"));
    given.delete("token");
    history.replaceState(null, "", given.size ? `#${given}` : location.pathname);
    return true;
  }
  return false;
}

export function setToken(text) {
  // The whole address may be pasted, too.
  const found = /token=([\w-]+)/.exec(text);
  sessionStorage.setItem(KEY, found ? found[1] : text.trim());
}

export function get(name, params = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "") query.append(key, each);
    }
  }
  return ask(`/api/${name}?${query}`, { signal });
}

export function post(name, body) {
  return ask(`/api/${name}`, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
  });
}

async function ask(url, options) {
  const token = sessionStorage.getItem(KEY);
  if (!token) throw new Refused("This page was opened without its token.", 401);
  const headers = { ...options.headers, authorization: `Bearer ${token}` };
  let answer;
  try {
    answer = await fetch(url, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The inspector no longer answers. Start nextmem inspect again.", 0);
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(body?.error ?? `The server failed (${answer.status}).`, answer.status);
  return body;
}
