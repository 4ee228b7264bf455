// OpenAI's own library: chat completions, and responses.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const City = z.object({ city: z.string() });

const chat = async (client, { model, prompt, what }) => {
  const shown = [{ type: "text", text: prompt }, { type: "image_url", image_url: { url: IMAGE_URL } }];
  const given = { model, messages: [{ role: "user", content: what === "image" ? shown : prompt }] };
  if (what === "stream") {
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...given, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    return text;
  }
  if (what === "tools") {
    const tools = [{ type: "function", function: WEATHER }];
    const answer = await client.chat.completions.create({ ...given, tools });
    const call = answer.choices[0].message.tool_calls[0].function;
    return called(call.name, call.arguments);
  }
  if (what === "structured") {
    const answer = await client.chat.completions.parse({ ...given, response_format: zodResponseFormat(City, "city") });
    return answer.choices[0].message.parsed.city;
  }
  return (await client.chat.completions.create(given)).choices[0].message.content;
};

const responses = async (client, { model, prompt, what }) => {
  const shown = [{ type: "input_text", text: prompt }, { type: "input_image", image_url: IMAGE_URL, detail: "auto" }];
  const given = { model, input: what === "image" ? [{ role: "user", content: shown }] : prompt };
  if (what === "stream") {
    let text = "";
    for await (const event of await client.responses.create({ ...given, stream: true })) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    return text;
  }
  if (what === "tools") {
    const answer = await client.responses.create({ ...given, tools: [{ type: "function", ...WEATHER }] });
    const call = answer.output.find((item) => item.type === "function_call");
    return called(call.name, call.arguments);
  }
  if (what === "structured") {
    return (await client.responses.parse({ ...given, text: { format: zodTextFormat(City, "city") } })).output_parsed.city;
  }
  return (await client.responses.create(given)).output_text;
};

await drive("openai", ({ base_url, api_key, api, ...asked }) => {
  const client = new OpenAI({ baseURL: base_url, apiKey: api_key });
  return (api === "chat" ? chat : responses)(client, asked);
});
