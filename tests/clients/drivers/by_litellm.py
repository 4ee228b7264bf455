"""LiteLLM's library, as a client of an address that speaks OpenAI's, Anthropic's or Google's API."""

import asyncio
import os
from typing import Any

import driving

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks another machine for prices
import litellm
from pydantic import BaseModel

ROUTES = {"chat": "openai", "messages": "anthropic", "gemini": "gemini"}


class City(BaseModel):
    city: str


def text_of(chunk: Any) -> str:
    return chunk.choices[0].delta.content or "" if chunk.choices else ""


def ask(asked: driving.Asked) -> str:
    given: dict[str, Any] = {
        "model": f"{ROUTES[asked['api']]}/{asked['model']}",
        "api_base": asked["base_url"],
        "api_key": asked["api_key"],
        "messages": driving.openai_messages(asked),
    }
    if asked["api"] != "chat":  # else it sends a maximum of its own
        given["max_tokens"] = driving.MAX_TOKENS
    match asked["what"]:
        case "stream":
            return "".join(text_of(chunk) for chunk in litellm.completion(**given, stream=True))
        case "tools":
            answer = litellm.completion(**given, tools=[driving.OPENAI_TOOL])
            call = answer.choices[0].message.tool_calls[0].function
            return driving.called(call.name, call.arguments)
        case "structured":
            answer = litellm.completion(**given, response_format=City)
            return City.model_validate_json(answer.choices[0].message.content).city
        case "asynchronous":
            return asyncio.run(both_ways(given))
    return litellm.completion(**given).choices[0].message.content or ""


async def both_ways(given: dict[str, Any]) -> str:
    answer = await litellm.acompletion(**given)
    pieces = [text_of(chunk) async for chunk in await litellm.acompletion(**given, stream=True)]
    return f"{answer.choices[0].message.content} {''.join(pieces)}"


driving.drive(ask)
