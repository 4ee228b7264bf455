// What the programs of this folder share: a line of JSON says what to ask, a line says what came of it.
// Each is read together with this file and evaluated where the packages are installed. Waiting is noted and not done.
import { createInterface } from "node:readline";

const waits = [];
const later = globalThis.setTimeout;
const LIBRARIES = /node_modules\/(openai|ai|@ai-sdk|@anthropic-ai|@google)\//;
const LONGEST_WAIT_MS = 300_000; // above are bounds on a whole request, not waits between two of them
const IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const IMAGE_URL = `data:image/png;base64,${IMAGE}`;
const CITY = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const WEATHER = { name: "weather", description: "Tells the weather of a city.", parameters: CITY };
const called = (name, given) => `${name} ${JSON.stringify(typeof given === "string" ? JSON.parse(given) : given)}`;

Math.random = () => 0.5;
globalThis.setTimeout = (call, ms, ...rest) => {
  if (ms > 0 && ms < LONGEST_WAIT_MS && LIBRARIES.test(new Error().stack)) {
    waits.push(ms / 1000);
    return later(call, 0, ...rest);
  }
  return later(call, ms, ...rest);
};

const drive = async (library, ask) => {
  for await (const line of createInterface({ input: process.stdin })) {
    waits.length = 0;
    let outcome;
    try {
      outcome = { text: await ask(JSON.parse(line)) };
    } catch (error) {
      const name = error.name === "Error" ? error.constructor.name : error.name;
      const builtIn = error.constructor === globalThis[error.constructor.name];
      outcome = { raised: builtIn ? name : `${library}.${name}`, message: String(error.message) };
    }
    process.stdout.write(`${JSON.stringify({ waits, ...outcome })}\n`);
  }
};
