// Asks for predictions as a program would: node predict.mjs REQUESTS, a JSON file with a list of what clients shall do. What
// came back to each goes to stdout as JSON.

import { readFileSync } from "node:fs";

import * as moiety from "@moiety/client";
import { trusting } from "@moiety/client/node";

/** An input as the request writes it: pixels are in hex. */
function inputOf(given) {
  return given.pixels === undefined ? given.rows : Uint8Array.from(Buffer.from(given.pixels, "hex"));
}

async function answer(asked) {
  const access = { ...JSON.parse(readFileSync(asked.access, "utf8")), ...asked.change };
  const client = await moiety.Client.fromAccess(access, { ...asked.options, fetch: asked.plain ? fetch : trusting(asked.ca ?? access.ca) });
  const models = await client.models();
  const told = [];
  for (const one of asked.asked) {
    const { labels, top, outputs, rounds, onlineBytes, inverted } = await client.predict(one.model, inputOf(one), one.options);
    const rows = outputs.map((row) => Array.from(row));
    told.push({ labels, top, outputs: rows, rounds, onlineBytes, inverted });
  }
  return { models: models.map((model) => model.name), described: await client.describe(asked.asked[0].model), told };
}

const told = [];
for (const asked of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  try {
    told.push(await answer(asked));
  } catch (error) {
    if (!(error instanceof moiety.MoietyError)) throw error;
    told.push({ error: error.name, message: error.message, row: error.row, column: error.column });
  }
}
console.log(JSON.stringify(told));
