"""Counting tokens with tiktoken: the vocabularies come from the package, never the network; long counts run in threads,
which accounts share fairly (`billing.fair_queue`).

A text is encoded in pieces of at most `PIECE_CHARACTERS`, because the encoder's time per character grows with the
length of a run that it can't split (100,000 equal characters take up to four times as long in one piece). A piece ends
before a space that follows something else than white space, where the vocabularies' own patterns split as well: the
sum is then exact. A text without such a place is cut anywhere, which makes the sum an approximation: usually a little
above the exact count, at most a few tokens per piece either way.
"""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import tiktoken

from billing.errors import MetergateError
from billing.fair_queue import FairQueue

P = ParamSpec("P")
T = TypeVar("T")

O200K = "o200k_base"
CL100K = "cl100k_base"

# Named as tiktoken's cache wants them (SHA-1 of the address that they are published at), with the SHA-256 it expects.
_FILES = {
    O200K: (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    CL100K: (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}
_FOLDER = Path(__file__).parent / "vocabularies"

OFF_LOOP_CHARACTERS = 4_096  # longer texts are counted in a thread: about 0.5 ms of work
PIECE_CHARACTERS = 2_048
THREADS = 2

# OpenAI's cookbook, "How to count tokens with tiktoken", for every chat model since gpt-3.5-turbo-0613.
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PRIMING = 3

# tiktoken's own table (`tiktoken.model`), cut down to the models that are still served with the older vocabulary.
_CL100K_PREFIXES = (
    "gpt-3.5",
    "gpt-35",
    "gpt-4",
    "text-embedding-3",
    "text-embedding-ada-002",
    "davinci-002",
    "babbage-002",
)
_OPENAI_PREFIXES = (*_CL100K_PREFIXES, "gpt-", "chatgpt-", "o1", "o3", "o4")
_O200K_PREFIXES = ("gpt-4o", "gpt-4.1", "gpt-4.5")


class VocabularyError(MetergateError):
    """A vocabulary file is missing or isn't the one that tiktoken expects."""


@lru_cache(maxsize=1_024)
def vocabulary_for(model: str) -> str:
    """Return the vocabulary's name for a model: `provider/model`, `ft:model:...` and dated names count as their model.

    An unknown model gets the newest vocabulary.
    """
    name = model.rpartition("/")[2].removeprefix("ft:")
    if name.startswith(_O200K_PREFIXES) or not name.startswith(_CL100K_PREFIXES):
        return O200K
    return CL100K


def is_openai_model(model: str) -> bool:
    """Return whether a model is one of OpenAI's, by its name: only theirs are known to use tiktoken's vocabularies."""
    return model.removeprefix("ft:").startswith(_OPENAI_PREFIXES)


class Tokenizer:
    """Both vocabularies, each read when a text is first counted by it, and a small thread pool. Call `close` at the
    end."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._folder = folder
        self._encodings: dict[str, tiktoken.Encoding] = {}
        self._reading = threading.Lock()
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="tokens")
        # Each that waits there is a request: their number is bounded by those that are admitted.
        self._queue = FairQueue(THREADS)

    def verify(self) -> None:
        """Compare the files with what is expected, before a request needs them. Raises `VocabularyError`."""
        verify_vocabularies(self._folder)

    def _read(self, vocabulary: str) -> tiktoken.Encoding:
        """Read a vocabulary: a tenth of a second of CPU, up to a second, and some 35 MB. Raises `VocabularyError`."""
        with self._reading:
            found = self._encodings.get(vocabulary)
            if vocabulary not in _FILES:
                raise VocabularyError(f"there is no vocabulary {vocabulary!r}: {', '.join(_FILES)}")
            if found is None:
                # tiktoken asks the network for a missing file, and deletes a damaged one: it must not come to that.
                verify_vocabularies(self._folder)
                os.environ["TIKTOKEN_CACHE_DIR"] = str(self._folder)
                found = tiktoken.get_encoding(vocabulary)
                # The encoder, which is not Python's, has them too; tiktoken keeps these for pickling alone: 17 MB each.
                found._mergeable_ranks = {}
                self._encodings[vocabulary] = found
            return found

    def close(self) -> None:
        """Stop the threads; what they are counting is finished first."""
        self._threads.shutdown(wait=True)

    def encode(self, text: str, vocabulary: str) -> list[int]:
        """Return the text's tokens; special tokens' names are ordinary text. Synchronous."""
        return [token for piece in _pieces(text) for token in self._encoding(vocabulary).encode_ordinary(piece)]

    def decode(self, tokens: Sequence[int], vocabulary: str) -> str:
        """Return the text of tokens; half a character becomes U+FFFD. Raises `KeyError` for a number that is no
        token."""
        return self._encoding(vocabulary).decode(tokens)

    def count(self, text: str, vocabulary: str) -> int:
        """Return how many tokens a text has. Synchronous: at most about 0.2 ms per 1,000 characters."""
        encoding = self._encoding(vocabulary)
        if len(text) <= PIECE_CHARACTERS:
            return len(encoding.encode_ordinary(text))
        return sum(len(encoding.encode_ordinary(piece)) for piece in _pieces(text))

    async def _in_thread(self, account: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread when the account is next, and return its result. A caller that is cancelled returns at
        once; the thread is free when the work ends."""
        await self._queue.acquire(account)
        try:
            done = asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        except BaseException:
            self._queue.release()
            raise
        done.add_done_callback(self._over)
        return await asyncio.shield(done)

    def _over(self, done: "asyncio.Future[T]") -> None:
        self._queue.release()
        if not done.cancelled():
            done.exception()  # retrieved: its caller may be cancelled

    async def count_off_loop(self, text: str, vocabulary: str, account: str = "") -> int:
        """Return `count`'s result; a text above `OFF_LOOP_CHARACTERS` is counted in a thread (the encoder releases the
        GIL), and so is the first one of a vocabulary."""
        if len(text) <= OFF_LOOP_CHARACTERS and vocabulary in self._encodings:
            return self.count(text, vocabulary)
        return await self._in_thread(account, self.count, text, vocabulary)

    async def off_loop(
        self, length: int, count: Callable[[Callable[[str], int]], T], vocabulary: str, account: str = ""
    ) -> T:
        """Return what `count` makes of this tokenizer's `count`; in a thread where `length` is above
        `OFF_LOOP_CHARACTERS`."""

        def counted() -> T:
            return count(lambda text: self.count(text, vocabulary))

        if length <= OFF_LOOP_CHARACTERS and vocabulary in self._encodings:
            return counted()
        return await self._in_thread(account, counted)

    def count_chat_messages(self, messages: Sequence[object], vocabulary: str) -> int:
        """Return the tokens of a list of chat messages as a prompt, by the cookbook's rule. Synchronous.

        Counted are every member that is a string (role, name, content, ...) and the text of content parts; images,
        audio and tool calls are not, nor is what isn't a message.
        """
        total = TOKENS_PRIMING
        for message in messages:
            if isinstance(message, Mapping):
                total += TOKENS_PER_MESSAGE + (TOKENS_PER_NAME if "name" in message else 0)
                total += sum(self.count(text, vocabulary) for text in _texts(message))
        return total

    async def count_chat_messages_off_loop(self, messages: Sequence[object], vocabulary: str, account: str = "") -> int:
        """Return `count_chat_messages`' result, from a thread when the messages' text is above `OFF_LOOP_CHARACTERS`
        together."""
        length = sum(len(text) for message in messages if isinstance(message, Mapping) for text in _texts(message))
        if length <= OFF_LOOP_CHARACTERS and vocabulary in self._encodings:
            return self.count_chat_messages(messages, vocabulary)
        return await self._in_thread(account, self.count_chat_messages, messages, vocabulary)

    def _encoding(self, vocabulary: str) -> tiktoken.Encoding:
        return self._encodings.get(vocabulary) or self._read(vocabulary)


def verify_vocabularies(folder: Path = _FOLDER) -> None:
    """Compare the files of both with what tiktoken expects, byte by byte: some milliseconds, where loading them takes
    up to a second. Raises `VocabularyError`."""
    for vocabulary, (file, sha256) in _FILES.items():
        path = folder / file
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise VocabularyError(f"{vocabulary}: cannot read {path}: {error.strerror}") from error
        if found != sha256:
            raise VocabularyError(f"{vocabulary}: {path} is damaged (SHA-256 {found}, expected {sha256})")


def _texts(message: Mapping[object, object]) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, str):
            yield value
        elif name == "content" and isinstance(value, list):
            for part in value:
                text = part.get("text") if isinstance(part, Mapping) else None
                if isinstance(text, str):
                    yield text


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = _piece_end(text, start)
        yield text[start:end]
        start = end
    yield text[start:]


def _piece_end(text: str, start: int) -> int:
    """Return the last index in reach at which a cut changes no token, or the end of reach where there is none."""
    end = start + PIECE_CHARACTERS
    at = text.rfind(" ", start + 1, end)
    while at > start and text[at - 1].isspace():
        at = text.rfind(" ", start + 1, at)
    return at if at > start else end
