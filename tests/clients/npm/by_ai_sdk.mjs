// The AI SDK, with its packages for each API. A stream of its never throws: what went wrong is told to onError.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";

const MODELS = {
  compatible: ({ model, ...options }) => createOpenAICompatible({ name: "metergate", ...options })(model),
  chat: ({ model, ...options }) => createOpenAI(options).chat(model),
  responses: ({ model, ...options }) => createOpenAI(options)(model),
  messages: ({ model, ...options }) => createAnthropic(options)(model),
};

await drive("ai", async ({ base_url, api_key, api, model: name, prompt, what }) => {
  const model = MODELS[api]({ baseURL: base_url, apiKey: api_key, model: name });
  const given = { model, prompt, ...(api === "messages" ? { maxOutputTokens: 50 } : {}) };
  if (what === "stream") {
    let failed;
    const onError = ({ error }) => {
      failed ??= error;
    };
    let text = "";
    for await (const piece of streamText({ ...given, onError }).textStream) text += piece;
    if (failed) throw failed;
    return text;
  }
  if (what === "tools") {
    const weather = tool({ description: WEATHER.description, inputSchema: jsonSchema(CITY) });
    const [call] = (await generateText({ ...given, tools: { weather } })).toolCalls;
    return called(call.toolName, call.input);
  }
  if (what === "structured") {
    return (await generateText({ ...given, output: Output.object({ schema: jsonSchema(CITY) }) })).output.city;
  }
  if (what === "image") {
    const content = [{ type: "text", text: prompt }, { type: "image", image: IMAGE, mediaType: "image/png" }];
    const { prompt: _, ...rest } = given;
    return (await generateText({ ...rest, messages: [{ role: "user", content }] })).text;
  }
  return (await generateText(given)).text;
});
