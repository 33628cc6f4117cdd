// How the page asks when a sidecar serves it: the sidecar splits, seals and opens, on the machine of whoever asks.

export const words = {
  lead: "This machine splits your input into two halves of pure noise. Alice and Bob compute on one half each, and only you get both halves of the answer.",
  foot: "This page talks to the sidecar on your own machine and to nothing else.",
  here: "on this machine",
  timed: "The sidecar measured these times",
  reference: "/docs",
  samples: "/web/own/digits",
  down: {
    title: "The sidecar does not answer",
    hint: "Start it again on this machine (moiety sidecar, or moiety up), then try again.",
  },
};

/** The published models, as the page lists them. Throws a problem: { title, detail, hint }. */
export const models = () => fetchJson("/v1/models");

/** Asks for one row of a table, or for one picture file; `invert` says whether to swap its dark and light. */
export function ask(name, { row, picture, invert }, signal) {
  const query = invert === undefined ? "" : `?invert=${invert}`;
  return fetchJson(`/v1/show/${encodeURIComponent(name)}${query}`, {
    method: "POST",
    headers: { "content-type": row ? "application/json" : picture.type || "application/octet-stream" },
    body: row ? JSON.stringify(row) : picture,
    signal,
  });
}

async function fetchJson(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw words.down;
  }
  const content = await response.json().catch(() => null);
  if (!response.ok || content === null) throw content?.title ? content : words.down;
  return content;
}
