"""OpenAI's own library."""

import driving
from openai import OpenAI


def ask(asked: driving.Asked) -> str:
    with OpenAI(base_url=asked["base_url"], api_key=asked["api_key"]) as client:
        messages = [{"role": "user", "content": asked["prompt"]}]
        if not asked["stream"]:
            answer = client.chat.completions.create(model=asked["model"], messages=messages)
            return answer.choices[0].message.content or ""
        chunks = client.chat.completions.create(model=asked["model"], messages=messages, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


driving.drive(ask)
