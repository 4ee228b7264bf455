// Anthropic's own library.
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";

await drive("anthropic", async ({ base_url, api_key, model, prompt, what }) => {
  const client = new Anthropic({ baseURL: base_url, apiKey: api_key });
  const source = { type: "base64", media_type: "image/png", data: IMAGE };
  const shown = [{ type: "text", text: prompt }, { type: "image", source }];
  const given = { model, max_tokens: 50, messages: [{ role: "user", content: what === "image" ? shown : prompt }] };
  if (what === "stream") {
    let text = "";
    for await (const event of await client.messages.create({ ...given, stream: true })) {
      if (event.type === "content_block_delta") text += event.delta.text ?? "";
    }
    return text;
  }
  if (what === "tools") {
    const { parameters, ...tool } = WEATHER;
    const answer = await client.messages.create({ ...given, tools: [{ ...tool, input_schema: parameters }] });
    const call = answer.content.find((block) => block.type === "tool_use");
    return called(call.name, call.input);
  }
  if (what === "structured") {
    const format = zodOutputFormat(z.object({ city: z.string() }));
    return (await client.messages.parse({ ...given, output_config: { format } })).parsed_output.city;
  }
  return (await client.messages.create(given)).content[0].text;
});
