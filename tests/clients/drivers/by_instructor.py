"""Instructor, over OpenAI's library."""

import driving
import instructor
from openai import OpenAI
from pydantic import BaseModel


class Choice(BaseModel):
    text: str


def ask(asked: driving.Asked) -> str:
    with OpenAI(base_url=asked["base_url"], api_key=asked["api_key"]) as plain:
        client = instructor.from_openai(plain)
        messages = [{"role": "user", "content": asked["prompt"]}]
        if asked["what"] == "plain":
            return client.chat.completions.create(model=asked["model"], messages=messages, response_model=Choice).text
        parts = client.chat.completions.create_partial(model=asked["model"], messages=messages, response_model=Choice)
        return [part.text for part in parts][-1] or ""


driving.drive(ask)
