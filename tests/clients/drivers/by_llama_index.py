"""LlamaIndex's model for OpenAI."""

import driving
from llama_index.llms.openai import OpenAI


def ask(asked: driving.Asked) -> str:
    model = OpenAI(model=asked["model"], api_base=asked["base_url"], api_key=asked["api_key"])
    if asked["what"] == "plain":
        return str(model.complete(asked["prompt"]))
    return "".join(part.delta or "" for part in model.stream_complete(asked["prompt"]))


driving.drive(ask)
