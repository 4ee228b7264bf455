"""OpenAI's agents: an agent with a function tool, asked once."""

import asyncio
import sys

from agents import Agent, Runner, function_tool


@function_tool
def read_file(path: str) -> str:
    """Return what a file holds."""
    with open(path) as file:
        return file.read()


async def main(prompt: str, model: str) -> None:
    agent = Agent(name="reader", instructions="Help.", model=model, tools=[read_file])
    print((await Runner.run(agent, prompt)).final_output)


asyncio.run(main(*sys.argv[1:]))
