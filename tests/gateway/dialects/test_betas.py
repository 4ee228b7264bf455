"""Features that clients opt into by a header: what passes, what raises a window, what is refused and in which words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.dialects.anthropic.dialect import MESSAGE, parse
from gateway.dialects.body import BadRequest
from gateway.dialects.declared import DEFAULT_BETAS, Betas
from gateway.dialects.facts import ParsedRequest
from tests.gateway.dialects.anthropic.bodies import message

PARSED = parse(MESSAGE, message())
SHIPPED = Betas(DEFAULT_BETAS)
_OF_A_NAME = re.compile(r"[A-Za-z0-9_:.-]")


def applied(*values: str, betas: Betas = SHIPPED, header: str = "anthropic-beta") -> ParsedRequest:
    return betas.applied(PARSED, CIMultiDict([(header, value) for value in values]))


def claude_code_drops(text: str, name: str) -> bool:
    """Whether Claude Code takes a feature out and asks again, as its 2.1.328 decides that: the token stands somewhere
    in the message, and no sign of a name follows it."""
    token = f"capability_rejected: beta_header:{name}"
    places = [found.end() for found in re.finditer(re.escape(token), text)]
    return any(not _OF_A_NAME.match(text[at : at + 1]) for at in places)


@given(st.lists(st.from_regex(r"[a-z0-9-]{1,30}(-20\d\d-\d\d-\d\d)?", fullmatch=True), max_size=8))
def test_what_nobody_listed_changes_nothing(names):
    listed = tuple(DEFAULT_BETAS["anthropic-beta"])
    assert applied(",".join(each for each in names if not each.startswith(listed))) is PARSED


def test_features_of_claude_code_pass():
    sent = (
        "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,"
        "mid-conversation-tool-changes-2026-07-01,mid-conversation-system-2026-04-07,prompt-caching-scope-2026-01-05,"
        "redact-thinking-2026-02-12,inline-tools-2026-09-15,message-threads-2026-08-12,advisor-tool-2026-03-01, ,oauth"
    )
    assert applied(sent) is PARSED
    assert applied("managed-agents-2026-04-01", header="x-other") is PARSED


def test_a_larger_context_window_is_held():
    assert applied("effort-2025-11-24, context-1m-2025-08-07").context_window == 1_000_000
    assert applied("context-1m").context_window == 1_000_000
    assert applied("context-1million-2030-01-01") is PARSED


def test_all_refused_features_are_named_in_the_words_that_claude_code_reads():
    names = ["managed-agents-2026-04-01", "Dreaming-2026-04-21", "agent-memory"]
    with pytest.raises(BadRequest) as caught:
        applied(f"effort-2025-11-24,{names[0]}, {names[1]}", f"{names[2]},{names[0]}")
    said = caught.value.message
    assert type(caught.value.param) is str  # which can be encoded
    assert caught.value.param == "anthropic-beta"
    assert all(claude_code_drops(said, name) for name in names)
    assert not claude_code_drops(said, "effort-2025-11-24")
    assert not claude_code_drops(said, "managed-agents")
    assert said.count("beta_header:") == 3
    for other in ("role 'system'", "cache_control", "tool_addition", "thinking"):  # words of other faults there
        assert other not in said


def test_an_operator_s_list_goes_before_the_shipped_one():
    own = Betas(
        DEFAULT_BETAS,
        {
            "Anthropic-Beta": {"managed-agents": "pass", "managed-agents-secret": "refuse", "context-1m": "window"},
            "openai-beta": {"assistants": "refuse"},
        },
    )
    assert applied("managed-agents-2026-04-01", betas=own) is PARSED
    found = applied("context-1m-2025-08-07", betas=own)
    assert (found.unbounded_input, found.context_window) == (True, 0)
    for header, name in (("anthropic-beta", "managed-agents-secret-2030-01-01"), ("openai-beta", "assistants=v2")):
        with pytest.raises(BadRequest, match=f"beta_header:{name}"):
            applied(name, betas=own, header=header)


def test_a_refusal_names_so_many_features_and_is_bounded():
    with pytest.raises(BadRequest) as caught:
        applied(",".join(f"dreaming-{number}-{'x' * 5_000}" for number in range(1_000)))
    assert len(caught.value.message) < 6_000
