// The AI SDK. A stream of its never throws: what went wrong is told to onError.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

await drive("ai", async ({ base_url, api_key, model, prompt, stream }) => {
  const gateway = createOpenAICompatible({ name: "metergate", baseURL: base_url, apiKey: api_key });
  if (!stream) {
    return (await generateText({ model: gateway(model), prompt })).text;
  }
  let failed;
  const { textStream } = streamText({
    model: gateway(model),
    prompt,
    onError: ({ error }) => {
      failed ??= error;
    },
  });
  let text = "";
  for await (const piece of textStream) text += piece;
  if (failed) throw failed;
  return text;
});
