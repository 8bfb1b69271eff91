// Counts each line of standard input, a JSON string, with gpt-tokenizer; a line `{cl100k_base, o200k_base}` for each.

import { createInterface } from "node:readline";
import { countTokens as cl100k } from "gpt-tokenizer/encoding/cl100k_base";
import { countTokens as o200k } from "gpt-tokenizer/encoding/o200k_base";

const asText = { allowedSpecial: new Set(), disallowedSpecial: new Set() };
for await (const line of createInterface({ input: process.stdin })) {
  const text = JSON.parse(line);
  console.log(JSON.stringify({ cl100k_base: cl100k(text, asText), o200k_base: o200k(text, asText) }));
}
