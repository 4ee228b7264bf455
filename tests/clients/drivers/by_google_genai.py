"""Google's own library. What came of a call is JSON: `answer`, or what of Google's exceptions was `raised`."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import driving
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

DECLARED = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="weather",
            description="Tells the weather.",
            parameters_json_schema=driving.CITY,
        )
    ]
)


class City(BaseModel):
    city: str


def client_of(asked: driving.Asked) -> genai.Client:
    options = types.HttpOptions(base_url=asked["base_url"], api_version=asked.get("version"))
    return genai.Client(api_key=asked["api_key"], http_options=options)


def config_of(asked: driving.Asked) -> types.GenerateContentConfig:
    tools: Any = [DECLARED] if "tools" in (asked.get("how"), asked.get("what")) else None
    return types.GenerateContentConfig(max_output_tokens=asked.get("max_tokens"), tools=tools)


def told(answer: types.GenerateContentResponse) -> dict[str, Any]:
    usage = answer.usage_metadata
    return {
        "text": answer.text if not answer.function_calls else None,
        "calls": [[call.name, call.args] for call in answer.function_calls or ()],
        "finish": [str(each.finish_reason) for each in answer.candidates or ()],
        "usage": usage.model_dump(exclude_none=True, mode="json") if usage else None,
    }


def plain(client: genai.Client, asked: driving.Asked) -> Any:
    return told(client.models.generate_content(model=asked["model"], contents=asked["prompt"], config=config_of(asked)))


def stream(client: genai.Client, asked: driving.Asked) -> Any:
    chunks = client.models.generate_content_stream(
        model=asked["model"], contents=asked["prompt"], config=config_of(asked)
    )
    return [told(chunk) for chunk in chunks]


def asynchronous(client: genai.Client, asked: driving.Asked) -> Any:
    async def both() -> Any:
        given: Any = {"model": asked["model"], "contents": asked["prompt"], "config": config_of(asked)}
        whole = await client.aio.models.generate_content(**given)
        chunks = [chunk.text or "" async for chunk in await client.aio.models.generate_content_stream(**given)]
        await client.aio.aclose()
        return [whole.text, "".join(chunks)]

    return asyncio.run(both())


def embed(client: genai.Client, asked: driving.Asked) -> Any:
    found = client.models.embed_content(model=asked["model"], contents=[asked["prompt"]] * 2)
    return [len(each.values or ()) for each in found.embeddings or ()]


def count(client: genai.Client, asked: driving.Asked) -> Any:
    return client.models.count_tokens(model=asked["model"], contents=asked["prompt"]).total_tokens


def models(client: genai.Client, asked: driving.Asked) -> Any:
    return [each.name for each in client.models.list(config={"page_size": 2})]


def model(client: genai.Client, asked: driving.Asked) -> Any:
    return client.models.get(model=asked["model"]).name


WAYS: dict[str, Callable[[genai.Client, driving.Asked], Any]] = {
    "plain": plain,
    "stream": stream,
    "tools": plain,
    "asynchronous": asynchronous,
    "embed": embed,
    "count": count,
    "models": models,
    "model": model,
}


def text(client: genai.Client, asked: driving.Asked) -> str:
    """What every library is asked for."""
    given: dict[str, Any] = {"model": asked["model"], "contents": asked["prompt"], "config": config_of(asked)}
    match asked["what"]:
        case "stream":
            return "".join(chunk.text or "" for chunk in client.models.generate_content_stream(**given))
        case "tools":
            call = client.models.generate_content(**given).function_calls[0]
            return driving.called(call.name, call.args)
        case "image":
            picture = types.Part.from_bytes(data=base64.b64decode(driving.IMAGE), mime_type="image/png")
            given["contents"] = [asked["prompt"], picture]
        case "structured":
            config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
            return client.models.generate_content(**{**given, "config": config}).parsed.city
        case "asynchronous":
            return " ".join(asynchronous(client, asked))
    return client.models.generate_content(**given).text or ""


def ask(asked: driving.Asked) -> str:
    with client_of(asked) as client:
        if "what" in asked:
            return text(client, asked)
        try:
            return json.dumps({"answer": WAYS[asked["how"]](client, asked)})
        except errors.APIError as error:
            raised = {"raised": type(error).__name__, "code": error.code, "status": error.status}
            return json.dumps({**raised, "message": error.message, "details": error.details})


driving.drive(ask)
