// OpenAI's own library.
import OpenAI from "openai";

await drive("openai", async ({ base_url, api_key, model, prompt, stream }) => {
  const client = new OpenAI({ baseURL: base_url, apiKey: api_key });
  const messages = [{ role: "user", content: prompt }];
  if (!stream) {
    const answer = await client.chat.completions.create({ model, messages });
    return answer.choices[0].message.content;
  }
  let text = "";
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  return text;
});
