/** For Node.js: a `fetch` that trusts the deployment's own CA and no other, and speaks TLS 1.3 and nothing older. */

import { request as plain } from "node:http";
import { Agent, request as encrypted } from "node:https";
import { Readable } from "node:stream";

/**
 * Makes a `fetch` for `Client.fromAccess(access, { fetch: trusting(access.ca) })`.
 *
 * `ca` is the PEM of the deployment's CA, as in the access file. Without one, it trusts those that Node.js trusts.
 */
export function trusting(ca = ""): typeof fetch {
  const agent = new Agent({ keepAlive: true, minVersion: "TLSv1.3", ...(ca ? { ca } : {}) });
  return async (input, init = {}) => {
    const url = new URL(String(input));
    const body = init.body as Uint8Array | null | undefined;
    const headers = { ...(init.headers as Record<string, string>), ...(body ? { "content-length": String(body.length) } : {}) };
    const how = { method: init.method ?? "GET", headers, ...(init.signal ? { signal: init.signal } : {}) };
    return new Promise((resolve, reject) => {
      const sent = url.protocol === "https:" ? encrypted(url, { ...how, agent }) : plain(url, how);
      sent.on("error", reject);
      sent.on("response", (message) => {
        const told = Object.entries(message.headers).map(([name, value]) => [name, String(value)] as [string, string]);
        const isRedirect = message.statusCode! >= 300 && message.statusCode! < 400;
        if (isRedirect) return void sent.destroy(new TypeError("a redirect, which no service of moiety sends"));
        const stream = Readable.toWeb(message) as ReadableStream<Uint8Array>;
        const isEmpty = message.statusCode === 204;
        resolve(new Response(isEmpty ? null : stream, { status: message.statusCode!, headers: told }));
      });
      sent.end(body ?? undefined);
    });
  };
}
