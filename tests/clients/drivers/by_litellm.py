"""LiteLLM's library, as a client of an OpenAI-compatible address."""

import os

import driving

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks another machine for prices
import litellm


def ask(asked: driving.Asked) -> str:
    answer = litellm.completion(
        model=f"openai/{asked['model']}",
        api_base=asked["base_url"],
        api_key=asked["api_key"],
        messages=[{"role": "user", "content": asked["prompt"]}],
        stream=asked["stream"],
    )
    if not asked["stream"]:
        return answer.choices[0].message.content or ""
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


driving.drive(ask)
