"""Anthropic's own library. A line says `how` to ask; what comes of it is told as JSON, errors too."""

import driving  # before the library, which keeps chance by name

# isort: split
import asyncio
import json
from typing import Any

import anthropic
from pydantic import BaseModel

WEATHER = {"name": "weather", "description": "Tells the weather of a city.", "input_schema": driving.CITY}


class City(BaseModel):
    city: str


def fields(asked: driving.Asked) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked["prompt"]}]
    return {"model": asked["model"], "max_tokens": asked.get("max_tokens", driving.MAX_TOKENS), "messages": messages}


def plain(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    message = client.messages.create(**fields(asked))
    return {"message": message.model_dump(mode="json", exclude_unset=True), "request_id": message._request_id}


def beta(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    message = client.beta.messages.create(**fields(asked), betas=asked["betas"])
    return {"message": message.model_dump(mode="json", exclude_unset=True)}


def tools(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    message = client.messages.create(**fields(asked), tools=[WEATHER])
    return [[block.name, block.input] for block in message.content if block.type == "tool_use"]


def stream(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    with client.messages.stream(**fields(asked)) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    return {"text": text, "message": message.model_dump(mode="json", exclude_unset=True)}


def events(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    return [event.type for event in client.messages.create(**fields(asked), stream=True)]


def count(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    return client.messages.count_tokens(model=asked["model"], messages=fields(asked)["messages"]).input_tokens


def models(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    return [model.id for model in client.models.list(limit=3)]  # page by page


def model(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    return client.models.retrieve(asked["model"]).id


def asynchronous(client: anthropic.Anthropic, asked: driving.Asked) -> Any:
    async def both() -> Any:
        async with anthropic.AsyncAnthropic(base_url=asked["base_url"], api_key=asked["api_key"]) as other:
            message = await other.messages.create(**fields(asked))
            async with other.messages.stream(**fields(asked)) as streamed:
                text = "".join([piece async for piece in streamed.text_stream])
        return [message.content[0].text, text]

    return asyncio.run(both())


HOWS = {each.__name__: each for each in (plain, beta, tools, stream, events, count, models, model, asynchronous)}


def text(client: anthropic.Anthropic, asked: driving.Asked) -> str:
    """What every library is asked for."""
    given = fields(asked)
    match asked["what"]:
        case "stream":
            with client.messages.stream(**given) as streamed:
                return "".join(streamed.text_stream)
        case "tools":
            (call,) = [
                each for each in client.messages.create(**given, tools=[WEATHER]).content if each.type == "tool_use"
            ]
            return driving.called(call.name, call.input)
        case "image":
            source = {"type": "base64", "media_type": "image/png", "data": driving.IMAGE}
            shown = [{"type": "text", "text": asked["prompt"]}, {"type": "image", "source": source}]
            given["messages"] = [{"role": "user", "content": shown}]
        case "structured":
            return client.messages.parse(**given, output_format=City).parsed_output.city
        case "asynchronous":
            return " ".join(asynchronous(client, asked))
    return client.messages.create(**given).content[0].text


def ask(asked: driving.Asked) -> str:
    with anthropic.Anthropic(base_url=asked["base_url"], api_key=asked["api_key"]) as client:
        if "what" in asked:
            return text(client, asked)
        try:
            return json.dumps({"answer": HOWS[asked["how"]](client, asked)})
        except anthropic.APIStatusError as error:
            told = {"raised": type(error).__name__, "status": error.status_code, "type": error.type}
            return json.dumps({**told, "message": error.message, "body": error.body, "request_id": error.request_id})


driving.drive(ask)
