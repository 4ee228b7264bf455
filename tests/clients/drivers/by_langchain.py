"""LangChain's chat models for OpenAI and Anthropic."""

import asyncio
from typing import Any

import driving
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

MODELS: dict[str, Any] = {"chat": ChatOpenAI, "messages": ChatAnthropic}


class City(BaseModel):
    """A city."""

    city: str


def ask(asked: driving.Asked) -> str:
    more = {"max_tokens": driving.MAX_TOKENS} if asked["api"] == "messages" else {}
    make = MODELS[asked["api"]]
    model = make(model=asked["model"], base_url=asked["base_url"], api_key=asked["api_key"], **more)
    messages = driving.openai_messages(asked)
    match asked["what"]:
        case "stream":
            return "".join(str(chunk.text) for chunk in model.stream(messages))
        case "tools":
            call = model.bind_tools([driving.OPENAI_TOOL]).invoke(messages).tool_calls[0]
            return driving.called(call["name"], call["args"])
        case "structured":
            return model.with_structured_output(City, method="json_schema").invoke(messages).city
        case "asynchronous":
            return asyncio.run(both_ways(model, messages))
    return str(model.invoke(messages).text)


async def both_ways(model: Any, messages: Any) -> str:
    pieces = [str(chunk.text) async for chunk in model.astream(messages)]
    return f"{(await model.ainvoke(messages)).text} {''.join(pieces)}"


driving.drive(ask)
