"""LangChain's chat model for OpenAI."""

import driving
from langchain_openai import ChatOpenAI


def ask(asked: driving.Asked) -> str:
    model = ChatOpenAI(model=asked["model"], base_url=asked["base_url"], api_key=asked["api_key"])
    if not asked["stream"]:
        return str(model.invoke(asked["prompt"]).content)
    return "".join(str(chunk.content) for chunk in model.stream(asked["prompt"]))


driving.drive(ask)
