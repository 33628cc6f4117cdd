// Bundles the package into dist/, and what the tests call of its inside into build/. The same sources give the same bytes.

import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
for (const folder of ["dist", "build"]) rmSync(folder, { recursive: true, force: true });
const common = { bundle: true, format: "esm", target: ["es2022"], legalComments: "none", logLevel: "error" };
// @hpke/common looks for Node's own WebCrypto where there is none; every platform that this package is for has one.
const external = ["node:crypto", "crypto"];
// @hpke/dhkem-x25519 has a SHA-256 in JavaScript for key pairs that it derives, which this client never does. Without it the bundle is smaller.
const native = {
  name: "native",
  setup: ({ onLoad }) =>
    onLoad({ filter: /dhkem-x25519\/esm\/src\/hkdfSha256\.js$/ }, () => ({
      contents: 'export { HkdfSha256Native as HkdfSha256 } from "@hpke/common";',
    })),
};
const made = await build({
  ...common,
  external,
  plugins: [native],
  entryPoints: ["src/index.ts"],
  outdir: "dist",
  minify: true,
  metafile: true,
});
await build({ ...common, entryPoints: ["src/node.ts"], outdir: "dist", platform: "node" });
await build({ ...common, external, plugins: [native], entryPoints: ["test/core.ts"], outdir: "build" });

// The licences of what is inside the bundle, which they want to go with it.
const inside = Object.keys(made.metafile.inputs).map((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1]);
const texts = [...new Set(inside.filter(Boolean))].sort().map((name) => {
  return `${name}\n\n${readFileSync(`node_modules/${name}/LICENSE`, "utf8").trim()}\n`;
});
writeFileSync("dist/LICENSES.txt", texts.join(`\n${"-".repeat(80)}\n\n`));
cpSync("../../LICENSE", "LICENSE");
