// oauth2-mock-server as an issuer: its URL on the first line; then for each line of JSON on stdin a token with these
// claims, or after {"rotate": true} a new key in the place of the one before.
import { createInterface } from "node:readline";
import { OAuth2Server } from "oauth2-mock-server";

const server = new OAuth2Server(undefined, undefined, { endpoints: { jwks: "/.well-known/jwks.json" } });
await server.issuer.keys.generate("RS256");
await server.start(0, "127.0.0.1");
console.log(server.issuer.url);

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.rotate) {
    await server.issuer.keys.generate("RS256");
    const kids = server.issuer.keys.toJSON(false).map((key) => key.kid);
    console.log(JSON.stringify(kids));
    continue;
  }
  const token = await server.issuer.buildToken({
    kid: asked.kid ?? undefined,
    scopesOrTransform: (_header, payload) => void Object.assign(payload, asked.claims),
  });
  console.log(token);
}
await server.stop();
