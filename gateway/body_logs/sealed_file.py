"""The format of a file of bodies: one line that says what it is, then JSON Lines, compressed by gzip and encrypted.

    {"format": "metergate-bodies-1", "key": "1f3a90bc", "account": "acc_…", "salt": "…"}\\n
    chunk, chunk, …, last chunk

Each chunk is up to `CHUNK_BYTES` of what gzip made, by AES-256-GCM (STREAM, https://eprint.iacr.org/2015/189): its
nonce is its number, with a mark on the last one, so that no chunk can be left out, moved or cut off unseen. The first
line is authenticated with each chunk. A file's key is derived by HKDF (RFC 5869) from the operator's, the file's salt
and its account, so that no two files share one and no account's file passes for another's.
"""

from __future__ import annotations

import gzip
import re
import zlib
from hashlib import sha256
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from billing.errors import MetergateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FORMAT: Final = "metergate-bodies-1"
CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32
HEAD_BYTES: Final = 1_024
NAME_CHARACTERS: Final = 8
GZIP_LEVEL: Final = 6
_NUMBER_BYTES: Final = 11
_FOR: Final = b"metergate body logs 1"
# Parts of what was decompressed that are in memory at a time.
_PART_BYTES: Final = 1 << 20
_SALT: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class FileBroken(MetergateError):
    """A file can't be read. The message says why."""


class Head(msgspec.Struct, frozen=True):
    """The first line: the name of the operator's key, whose bodies these are, and what its own key is derived with."""

    format: str
    key: str
    account: str
    salt: str


class Keys:
    """The operator's keys by their names: the first one seals, all of them open."""

    def __init__(self, secret: str, before: Iterable[str] = (), random: Callable[[int], bytes] = token_bytes) -> None:
        """`random` makes so many random bytes."""
        self._random = random
        self._secrets = {key_name(each): each for each in (secret, *before)}
        self.name = key_name(secret)

    def __repr__(self) -> str:
        return f"Keys({', '.join(self._secrets)})"

    def seal(self, account: str, lines: bytes) -> bytes:
        """Return a file of lines of an account."""
        head = Head(FORMAT, self.name, account, self._random(SALT_BYTES).hex())
        first = msgspec.json.encode(head) + b"\n"
        cipher, packed = self._cipher(head), gzip.compress(lines, GZIP_LEVEL, mtime=0)
        sealed = [first]
        for number, start in enumerate(range(0, len(packed), CHUNK_BYTES)):
            chunk = packed[start : start + CHUNK_BYTES]
            nonce = _nonce(number, last=start + CHUNK_BYTES >= len(packed))
            sealed.append(cipher.encrypt(nonce, chunk, first))
        return b"".join(sealed)

    def lines(self, sealed: bytes) -> Iterator[bytes]:
        """Yield the lines of a file, each without its newline. Raises `FileBroken`; lines that came before were those
        that were sealed."""
        rest = b""
        for part in self._plain(sealed):
            *whole, rest = (rest + part).split(b"\n")
            yield from whole
        if rest:
            raise FileBroken("The file ends within a line.")

    def _plain(self, sealed: bytes) -> Iterator[bytes]:
        head, first = read_head(sealed)
        cipher, unpack = self._cipher(head), zlib.decompressobj(zlib.MAX_WBITS | 16)
        for packed in _chunks(cipher, first, sealed[len(first) :]):
            left = packed
            while left:
                try:
                    part = unpack.decompress(left, _PART_BYTES)
                except zlib.error as error:
                    raise FileBroken("The file was sealed by something else than Metergate.") from error
                yield part
                left = unpack.unconsumed_tail

    def _cipher(self, head: Head) -> AESGCM:
        secret = self._secrets.get(head.key)
        if secret is None:
            known = ", ".join(self._secrets)
            raise FileBroken(f"The file was sealed by the key {head.key}; those that are configured are {known}.")
        info = _FOR + b":" + head.account.encode()
        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=bytes.fromhex(head.salt), info=info).derive(secret.encode()))


def key_name(secret: str) -> str:
    """Return what a key is called in files: enough of a digest to tell it from others."""
    return sha256(_FOR + secret.encode()).hexdigest()[:NAME_CHARACTERS]


def read_head(sealed: bytes) -> tuple[Head, bytes]:
    """Return the first line of a file, and its bytes. Raises `FileBroken`."""
    end = sealed.find(b"\n", 0, HEAD_BYTES) + 1
    try:
        head = msgspec.json.decode(sealed[:end], type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FileBroken("This is no file of bodies.") from error
    if head.format != FORMAT or not _SALT.fullmatch(head.salt):
        raise FileBroken("The file has another format than this version reads.")
    return head, sealed[:end]


def _chunks(cipher: AESGCM, first: bytes, sealed: bytes) -> Iterator[bytes]:
    size = CHUNK_BYTES + TAG_BYTES
    for number, start in enumerate(range(0, max(len(sealed), 1), size)):
        chunk = sealed[start : start + size]
        try:
            yield cipher.decrypt(_nonce(number, last=start + size >= len(sealed)), chunk, first)
        except (InvalidTag, ValueError) as error:
            raise FileBroken("The file was changed or cut after it was sealed.") from error


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(_NUMBER_BYTES, "big") + (b"\x01" if last else b"\x00")
