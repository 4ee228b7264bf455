"""Content codings of request bodies."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.codings import MAX_MEMBERS, PIECE_BYTES, BadCoding, decoder_of


def bare(data: bytes) -> bytes:
    """Deflate without a header, as RFC 1951 has it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODINGS = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": (" Deflate ", bare),
}


def decoded(coding: str, data: bytes, size: int = 1 << 30) -> bytes:
    """A whole body, fed in parts of so many bytes."""
    decoder = decoder_of(coding)
    assert decoder is not None
    pieces = [piece for at in range(0, len(data), size) for piece in decoder.feed(data[at : at + size])]
    decoder.end()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("name", CODINGS)
@given(plain=st.binary(max_size=2_000), times=st.sampled_from([1, 300, 3_000]), size=st.sampled_from([1, 7, 4_096]))
def test_what_was_packed_comes_out(name, plain, times, size):
    coding, pack = CODINGS[name]
    packed = pack(plain * times)
    if len(packed) // size < 100_000:
        assert decoded(coding, packed, size) == plain * times


@pytest.mark.parametrize("name", CODINGS)
def test_no_piece_is_larger_than_its_bound_whatever_is_fed(name):
    """A bomb of a thousand to one, and what does not shrink at all."""
    coding, pack = CODINGS[name]
    zeros = 40 << 20
    decoder = decoder_of(coding)
    assert decoder is not None
    sizes = [len(piece) for piece in decoder.feed(pack(b"\0" * zeros))]
    assert (sum(sizes), max(sizes)) == (zeros, PIECE_BYTES)
    for size in range(PIECE_BYTES - 290, PIECE_BYTES + 290, 29):
        assert len(decoded(coding, pack(b"\0" * size))) == size
    noise = bytes(range(256)) * 5_000
    assert decoded(coding, pack(noise)) == noise


def test_members_of_gzip_stand_one_behind_the_other_up_to_a_bound():
    member = gzip.compress(b"member")
    for size in (1, 1_000_000):
        assert decoded("gzip", member * MAX_MEMBERS, size) == b"member" * MAX_MEMBERS
        with pytest.raises(BadCoding, match="more behind"):
            decoded("gzip", member * (MAX_MEMBERS + 1), size)
    with pytest.raises(BadCoding, match="more behind"):
        decoded("deflate", zlib.compress(b"member") * 2)


@pytest.mark.parametrize("name", CODINGS)
def test_what_is_cut_or_broken_is_refused(name):
    coding, pack = CODINGS[name]
    packed = pack(b"some text " * 1_000)
    for cut in (1, 5, 12):
        with pytest.raises(BadCoding, match="too soon"):
            decoded(coding, packed[:-cut])
    with pytest.raises(BadCoding):
        decoded("gzip", b"no gzip at all")
    with pytest.raises(BadCoding):
        decoded(coding, packed + b"behind")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "deflate, gzip", "compress", "utf-8", "identity, gzip"])
def test_other_codings_are_refused(coding):
    with pytest.raises(BadCoding, match="gzip or deflate alone"):
        decoder_of(coding)


@pytest.mark.parametrize("coding", [None, "", " ", "identity", "Identity"])
def test_no_coding_is_nothing_to_decode(coding):
    assert decoder_of(coding) is None
