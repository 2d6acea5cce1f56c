// Builds the page into src/runstream/server/static: `node build.mjs [FOLDER]`. The same sources give the same bytes.
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, "../src/runstream/server/static"));
const assets = join(target, "assets");
await rm(assets, { recursive: true, force: true });
await mkdir(assets, { recursive: true });

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx", theme: "src/theme.ts", style: "src/style/page.css" },
  outdir: assets,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  minify: true,
  format: "esm",
  target: ["chrome111", "firefox115", "safari16.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});

const named = {};
for (const [path, { entryPoint }] of Object.entries(metafile.outputs)) {
  if (entryPoint) named[basename(entryPoint)] = basename(path);
}
const icon = await readFile(join(here, "src/icon.svg"));
named["icon.svg"] = `icon-${createHash("sha256").update(icon).digest("hex").slice(0, 8).toUpperCase()}.svg`;
await writeFile(join(assets, named["icon.svg"]), icon);

let page = await readFile(join(here, "src/index.html"), "utf8");
for (const [source, built] of Object.entries(named)) page = page.replaceAll(`{${source}}`, `assets/${built}`);
await writeFile(join(target, "index.html"), page);

// The licences of what is bundled.
const packages = new Set();
for (const path of Object.keys(metafile.inputs)) {
  const found = path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/);
  if (found) packages.add(found[1]);
}
let licences = "The page is built from these packages as well.\n";
for (const name of [...packages].sort()) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((each) => /^licen[cs]e/i.test(each));
  const text = file ? await readFile(join(folder, file), "utf8") : "";
  licences += `\n----\n\n${name} ${version} (${license})\n\n${text.trim()}\n`;
}
await writeFile(join(assets, "licences.txt"), licences);
