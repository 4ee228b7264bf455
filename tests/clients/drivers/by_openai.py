"""OpenAI's own library: chat completions, and responses."""

import asyncio
from typing import Any

import driving
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str


def chat(client: OpenAI, asked: driving.Asked) -> str:
    given: dict[str, Any] = {"model": asked["model"], "messages": driving.openai_messages(asked)}
    match asked["what"]:
        case "stream":
            chunks = client.chat.completions.create(**given, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        case "tools":
            answer = client.chat.completions.create(**given, tools=[driving.OPENAI_TOOL])
            call = answer.choices[0].message.tool_calls[0].function
            return driving.called(call.name, call.arguments)
        case "structured":
            parsed = client.chat.completions.parse(**given, response_format=City).choices[0].message.parsed
            return parsed.city
        case "asynchronous":
            return asyncio.run(chat_both_ways(asked, given))
    return client.chat.completions.create(**given).choices[0].message.content or ""


async def chat_both_ways(asked: driving.Asked, given: dict[str, Any]) -> str:
    async with AsyncOpenAI(base_url=asked["base_url"], api_key=asked["api_key"]) as client:
        answer = await client.chat.completions.create(**given)
        chunks = await client.chat.completions.create(**given, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
    return f"{answer.choices[0].message.content} {''.join(pieces)}"


def responses(client: OpenAI, asked: driving.Asked) -> str:
    shown = [{"type": "input_text", "text": asked["prompt"]}, {"type": "input_image", "image_url": driving.IMAGE_URL}]
    prompt = [{"role": "user", "content": shown}] if asked["what"] == "image" else asked["prompt"]
    given: dict[str, Any] = {"model": asked["model"], "input": prompt}
    match asked["what"]:
        case "stream":
            events = client.responses.create(**given, stream=True)
            return "".join(event.delta for event in events if event.type == "response.output_text.delta")
        case "tools":
            output = client.responses.create(**given, tools=[{"type": "function", **driving.WEATHER}]).output
            call = next(item for item in output if item.type == "function_call")
            return driving.called(call.name, call.arguments)
        case "structured":
            return client.responses.parse(**given, text_format=City).output_parsed.city
        case "asynchronous":
            return asyncio.run(respond_both_ways(asked, given))
    return client.responses.create(**given).output_text


async def respond_both_ways(asked: driving.Asked, given: dict[str, Any]) -> str:
    async with AsyncOpenAI(base_url=asked["base_url"], api_key=asked["api_key"]) as client:
        answer = await client.responses.create(**given)
        events = await client.responses.create(**given, stream=True)
        pieces = [event.delta async for event in events if event.type == "response.output_text.delta"]
    return f"{answer.output_text} {''.join(pieces)}"


def other(client: OpenAI, asked: driving.Asked) -> str:
    """What is no text: how many numbers an embedding has, or whether a text was flagged."""
    if asked["what"] == "moderate":
        return str(client.moderations.create(model=asked["model"], input=asked["prompt"]).results[0].flagged)
    found = client.embeddings.create(model=asked["model"], input=[asked["prompt"]] * 2)
    return " ".join(str(len(each.embedding)) for each in found.data)


APIS = {"chat": chat, "responses": responses, "other": other}


def ask(asked: driving.Asked) -> str:
    with OpenAI(base_url=asked["base_url"], api_key=asked["api_key"]) as client:
        return APIS[asked["api"]](client, asked)


driving.drive(ask)
