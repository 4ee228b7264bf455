"""Pydantic AI: an agent with a function tool, asked once."""

import sys

from pydantic_ai import Agent


def main(prompt: str, model: str) -> None:
    agent = Agent(f"openai-responses:{model}")

    @agent.tool_plain
    def read_file(path: str) -> str:
        """Return what a file holds."""
        with open(path) as file:
            return file.read()

    print(agent.run_sync(prompt).output)


main(*sys.argv[1:])
