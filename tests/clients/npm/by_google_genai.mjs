// Google's own library.
import { GoogleGenAI } from "@google/genai";

await drive("google", async ({ base_url, api_key, version, model, prompt, what }) => {
  const { models } = new GoogleGenAI({ apiKey: api_key, httpOptions: { baseUrl: base_url, apiVersion: version } });
  const shown = [{ text: prompt }, { inlineData: { mimeType: "image/png", data: IMAGE } }];
  const given = { model, contents: what === "image" ? shown : prompt };
  if (what === "stream") {
    let text = "";
    for await (const chunk of await models.generateContentStream(given)) text += chunk.text ?? "";
    return text;
  }
  if (what === "tools") {
    const { parameters, ...tool } = WEATHER;
    const tools = [{ functionDeclarations: [{ ...tool, parametersJsonSchema: parameters }] }];
    const [call] = (await models.generateContent({ ...given, config: { tools } })).functionCalls;
    return called(call.name, call.args);
  }
  if (what === "structured") {
    const config = { responseMimeType: "application/json", responseJsonSchema: CITY };
    return JSON.parse((await models.generateContent({ ...given, config })).text).city;
  }
  return (await models.generateContent(given)).text;
});
