"""smolagents: an agent that calls tools, asked once."""

import os
import sys

from smolagents import OpenAIServerModel, ToolCallingAgent, tool


@tool
def read_file(path: str) -> str:
    """Return what a file holds.

    Args:
        path: Where the file is.
    """
    with open(path) as file:
        return file.read()


def main(prompt: str, model: str) -> None:
    served = OpenAIServerModel(model, api_base=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
    agent = ToolCallingAgent(tools=[read_file], model=served, verbosity_level=0, max_steps=4)
    print(agent.run(prompt))


main(*sys.argv[1:])
