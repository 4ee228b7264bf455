"""Token counts: vocabularies without network, exactness in pieces, bounded work, the loop kept free."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from gateway import tokens
from gateway.tokens import CL100K, O200K, Tokenizer, VocabularyError, vocabulary_for


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    made = Tokenizer()
    made.load()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("gpt-4", CL100K),
        ("gpt-4-turbo-2024-04-09", CL100K),
        ("gpt-3.5-turbo", CL100K),
        ("gpt-35-turbo", CL100K),
        ("ft:gpt-3.5-turbo:acme::id", CL100K),
        ("openai/gpt-4", CL100K),
        ("text-embedding-3-small", CL100K),
        ("text-embedding-ada-002", CL100K),
        ("gpt-4o-mini", O200K),
        ("ft:gpt-4o-2024-08-06:acme::id", O200K),
        ("gpt-4.1-nano", O200K),
        ("gpt-4.5-preview", O200K),
        ("o3", O200K),
        ("claude-sonnet-4", O200K),
        ("", O200K),
    ],
)
def test_a_model_has_its_vocabulary(model: str, vocabulary: str) -> None:
    assert vocabulary_for(model) == vocabulary


def test_loading_reads_the_shipped_files_and_leaves_them_alone(tmp_path: Path) -> None:
    folder = Path(tokens.__file__).parent / "vocabularies"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    made = Tokenizer()
    made.load()
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(folder)
    assert made.count("hello world", O200K) == 2
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    made.close()


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"cannot read .*No such file"):
        Tokenizer(tmp_path).load()


def test_a_damaged_file_is_a_clear_error_and_is_kept(tmp_path: Path) -> None:
    shutil.copytree(Path(tokens.__file__).parent / "vocabularies", tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(VocabularyError, match="damaged"):
        Tokenizer(tmp_path / "copy").load()
    assert len(list((tmp_path / "copy").iterdir())) == 2


def test_counting_before_loading_says_so() -> None:
    with pytest.raises(VocabularyError, match=r"call load\(\) first"):
        Tokenizer().count("text", O200K)


def test_special_tokens_are_ordinary_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.count("<|endoftext|>", O200K) > 1


@pytest.mark.parametrize("vocabulary", [O200K, CL100K])
@given(
    words=st.lists(
        st.sampled_from(["alpha", "12", " ", "  ", "\n", "\n\n ", "don't", "x" * 40, "é,", "中文", "...", "A9"])
    )
)
def test_pieces_of_text_with_spaces_count_exactly(tokenizer: Tokenizer, vocabulary: str, words: list[str]) -> None:
    text = (" ".join(words) + " word and word") * 200
    assert tokenizer.count(text, vocabulary) == len(tiktoken.get_encoding(vocabulary).encode_ordinary(text))


@pytest.mark.parametrize("vocabulary", [O200K, CL100K])
@pytest.mark.parametrize("character", ["a", " ", "\n", "1", "!", "中", "😀", "\x00"])
def test_a_long_run_is_counted_in_bounded_pieces(tokenizer: Tokenizer, vocabulary: str, character: str) -> None:
    text = character * 100_000
    pieces = list(tokens._pieces(text))
    assert "".join(pieces) == text
    assert max(len(piece) for piece in pieces) <= tokens.PIECE_CHARACTERS
    exact = len(tiktoken.get_encoding(vocabulary).encode_ordinary(text))
    assert abs(tokenizer.count(text, vocabulary) - exact) <= 4 * len(pieces)


@given(text=st.text(max_size=200), times=st.integers(1, 60))
def test_pieces_are_the_text(text: str, times: int) -> None:
    assert "".join(tokens._pieces(text * times)) == text * times


@given(text=st.text(max_size=300))
def test_a_text_has_at_most_as_many_tokens_as_bytes(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.count(text, O200K) <= len(text.encode())


def test_encode_and_decode_are_inverse(tokenizer: Tokenizer) -> None:
    text = "Grüße, 12345 times. " * 500
    encoded = tokenizer.encode(text, CL100K)
    assert len(encoded) == tokenizer.count(text, CL100K)
    assert tokenizer.decode(encoded, CL100K) == text


async def test_a_long_text_leaves_the_loop_free(tokenizer: Tokenizer) -> None:
    text = "a" * 3_000_000
    job = asyncio.ensure_future(tokenizer.count_off_loop(text, O200K))
    turns = 0
    while not job.done():
        await asyncio.sleep(0)
        turns += 1
    assert await job == tokenizer.count(text, O200K)
    assert turns > 10


async def test_short_texts_are_counted_at_once(tokenizer: Tokenizer) -> None:
    assert await tokenizer.count_off_loop("hello world", O200K) == 2


async def test_chat_messages_count_by_the_cookbooks_rule(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "You are helpful."},
        {
            "role": "user",
            "name": "bob",
            "content": [{"type": "text", "text": "Hi there"}, {"type": "image_url", "image_url": {}}],
        },
    ]
    texts = ["system", "You are helpful.", "user", "bob", "Hi there"]
    expected = 3 + 3 + 3 + 1 + sum(tokenizer.count(text, O200K) for text in texts)
    assert tokenizer.count_chat_messages(messages, O200K) == expected
    assert await tokenizer.count_chat_messages_off_loop(messages, O200K) == expected


def test_the_cookbooks_own_example(tokenizer: Tokenizer) -> None:
    pairs = [
        ("You are a helpful, pattern-following assistant that translates corporate jargon into plain English.", None),
        ("New synergies will help drive top-line growth.", "example_user"),
        ("Things working well together will increase revenue.", "example_assistant"),
        (
            "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
            "example_user",
        ),
        ("Let's talk later when we're less busy about how to do better.", "example_assistant"),
    ]
    messages: list[dict[str, str]] = [
        {"role": "system", "content": content} | ({"name": name} if name else {}) for content, name in pairs
    ]
    messages.append(
        {
            "role": "user",
            "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
        }
    )
    # The notebook prints these counts, equal to what OpenAI's API answered.
    assert tokenizer.count_chat_messages(messages, CL100K) == 129
    assert tokenizer.count_chat_messages(messages, O200K) == 124


@pytest.mark.parametrize(
    "messages", [[], ["text", None, 3], [{}], [{"content": None}], [{"content": [None, "x", {"text": 3}]}]]
)
def test_odd_messages_count_without_failing(tokenizer: Tokenizer, messages: list[object]) -> None:
    assert tokenizer.count_chat_messages(messages, O200K) >= tokens.TOKENS_PRIMING


async def test_long_messages_are_counted_in_a_thread(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "word " * 5_000}]
    expected = tokenizer.count_chat_messages(messages, O200K)
    assert await tokenizer.count_chat_messages_off_loop(messages, O200K) == expected
