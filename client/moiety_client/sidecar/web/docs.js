// The OpenAPI document for people: each address, what it does, how to ask.

import { element } from "../view.js";

const document_ = await (await fetch("/openapi.json")).json();
const operations = Object.entries(document_.paths).flatMap(([path, verbs]) =>
  Object.entries(verbs).map(([verb, operation]) => ({ path, verb, operation })),
);
document.getElementById("operations").replaceChildren(
  ...operations.map(({ path, verb, operation }) => {
    const title = element("h2", {}, element("span", { className: "verb", text: verb.toUpperCase() }), element("code", { text: path }));
    const section = element("section", { className: "card" }, title, element("p", { text: operation.summary }));
    if (operation.description) section.append(element("p", { text: operation.description.replaceAll("`", "") }));
    for (const sample of operation["x-codeSamples"] ?? []) {
      const code = element("code", { text: sample.source.trimEnd() });
      section.append(
        element("h3", { text: sample.label }),
        element("pre", { tabindex: "0", role: "region", "aria-label": `${sample.label} for ${path}` }, code),
      );
    }
    return section;
  }),
);
