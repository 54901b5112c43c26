"""Rules 53 to 55: how a layer ends, and how it is compressed."""

from __future__ import annotations

import gzip
import zlib

import pytest
import zstandard

from dimgx.errors import ImageError
from tests.cases import flatten_layers
from tests.dsl import END, Member, dir_, file, gnu_long, layer, pax_header
from tests.listing import list_tar
from tests.writers import Compression, compress

MEMBERS = [dir_("d"), file("d/a", b"x" * 3000), file("b", "y")]
PLAIN = layer(*MEMBERS)
LISTING = ["f b 'y'", "d d", "f d/a <3000 bytes e1630f843370>"]
KINDS: list[Compression] = ["gzip", "bzip2", "xz", "zstd"]


def zstd_frame(data: bytes) -> bytes:
    return compress(data, "zstd")


def skippable(data: bytes, number: int = 0) -> bytes:
    return (0x184D2A50 + number).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data


def gzip_with_everything(data: bytes) -> bytes:
    """Give a gzip member with an extra field, a name, a comment and a header CRC."""
    extra = b"AB\4\0data"
    head = b"\x1f\x8b\x08" + bytes([0x1E]) + bytes(4) + b"\0\3"
    head += len(extra).to_bytes(2, "little") + extra + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    body = gzip.compress(data, mtime=0)[10:]
    return head + body


@pytest.mark.parametrize(
    "end",
    [b"", bytes(512), bytes(1024), bytes(10240), bytes(1024) + b"junk behind the end" * 100],
    ids=["none", "one-block", "two", "many", "junk-behind"],
)
def test_53_ends_that_are_fine(end: bytes) -> None:
    assert list_tar(flatten_layers([layer(*MEMBERS, end=end)])) == LISTING


def test_53_a_lone_zero_block() -> None:
    with pytest.raises(ImageError, match="a lone zero block with more behind it"):
        flatten_layers([layer(file("a"), end=bytes(512)) + layer(file("b"))])


def test_53_what_lies_behind_the_end_is_no_entry() -> None:
    assert list_tar(flatten_layers([PLAIN + layer(file("ghost"))])) == LISTING


def test_53_the_last_file_need_not_be_padded_where_nothing_follows() -> None:
    """Go's reader does not ask for the padding of the last file."""
    tar = layer(file("a", "x"), end=b"")[:513]
    try:
        assert list_tar(flatten_layers([tar])) == ["f a 'x'"]
    except ImageError as error:
        assert "end" in str(error)


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_53_an_empty_layer(data: bytes, kind: Compression | None) -> None:
    assert list_tar(flatten_layers([PLAIN, compress(data, kind)])) == LISTING


@pytest.mark.parametrize(
    ("tar", "cut"),
    [
        (layer(file("a", "x")), 100),
        (layer(file("a", "x")), 511),
        (layer(file("a", b"x" * 1000)), 512),
        (layer(file("a", b"x" * 1000)), 1000),
        (pax_header([(b"path", b"p" * 200)]), 512),
        (pax_header([(b"path", b"p" * 200)]) + layer(file("a")), 600),
        (pax_header([(b"path", b"p" * 200)]) + layer(file("a")), 1024),
        (gnu_long(b"L", b"n" * 600) + layer(file("a")), 700),
        (gnu_long(b"L", b"n" * 600) + layer(file("a")), 1536),
    ],
)
@pytest.mark.parametrize("kind", [None, "gzip"])
def test_53_ends_that_are_errors(tar: bytes, cut: int, kind: Compression | None) -> None:
    with pytest.raises(ImageError):
        flatten_layers([compress(tar[:cut], kind)])


@pytest.mark.parametrize("kind", KINDS)
def test_54_told_by_magic(kind: Compression) -> None:
    assert list_tar(flatten_layers([compress(PLAIN, kind)])) == LISTING


def test_54_gzip_of_several_members() -> None:
    parts = b"".join(
        gzip.compress(PLAIN[at : at + 700], mtime=0) for at in range(0, len(PLAIN), 700)
    )
    assert list_tar(flatten_layers([parts])) == LISTING
    assert list_tar(flatten_layers([gzip.compress(b"") + parts + gzip.compress(b"")])) == LISTING


def test_54_gzip_with_any_header_options() -> None:
    assert list_tar(flatten_layers([gzip_with_everything(PLAIN)])) == LISTING


def test_54_gzip_stored() -> None:
    assert list_tar(flatten_layers([gzip.compress(PLAIN, 0)])) == LISTING


def test_54_zstd_of_several_frames_and_skippable_ones() -> None:
    frames = [zstd_frame(PLAIN[at : at + 700]) for at in range(0, len(PLAIN), 700)]
    assert list_tar(flatten_layers([b"".join(frames)])) == LISTING
    mixed = skippable(b"first") + b"".join(f + skippable(b"x" * 300, 7) for f in frames)
    assert list_tar(flatten_layers([mixed + skippable(b"")])) == LISTING


def test_54_zstd_with_a_long_window() -> None:
    options = zstandard.ZstdCompressionParameters(
        window_log=30, enable_ldm=True, write_checksum=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=options).compressobj()
    # Without a content size in the frame the decoder has to believe the window.
    packed = compressor.compress(PLAIN[:1000]) + compressor.compress(PLAIN[1000:])
    packed += compressor.flush()
    assert list_tar(flatten_layers([packed])) == LISTING


def test_54_bzip2_and_xz_of_several_streams() -> None:
    for kind in ("bzip2", "xz"):
        two = compress(PLAIN[:1000], kind) + compress(PLAIN[1000:], kind)
        assert list_tar(flatten_layers([two])) == LISTING


@pytest.mark.parametrize("kind", KINDS)
def test_54_a_cut_stream_is_an_error(kind: Compression) -> None:
    packed = compress(PLAIN, kind)
    for cut in (1, 4, 8, 20):
        with pytest.raises(ImageError):
            flatten_layers([packed[:-cut]])


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz"])
def test_54_a_wrong_check_is_an_error(kind: Compression) -> None:
    packed = bytearray(compress(PLAIN, kind))
    at = {"gzip": -8, "bzip2": -5, "xz": -20}[kind]
    packed[at] ^= 1
    with pytest.raises(ImageError):
        flatten_layers([bytes(packed)])


@pytest.mark.parametrize("kind", KINDS)
def test_54_cut_even_where_the_tar_has_ended(kind: Compression) -> None:
    """The stream is read to its end, so a lost trailer is seen."""
    packed = compress(PLAIN + bytes(100_000), kind)
    with pytest.raises(ImageError):
        flatten_layers([packed[:-3]])


def test_54_compressed_twice_is_no_tar() -> None:
    with pytest.raises(ImageError):
        flatten_layers([compress(compress(PLAIN, "gzip"), "gzip")])


def test_54_layers_of_one_image_may_differ() -> None:
    layers = [compress(layer(file(f"f{n}", "x")), kind) for n, kind in enumerate([None, *KINDS])]
    assert list_tar(flatten_layers(layers)) == [f"f f{n} 'x'" for n in range(5)]


def test_55_estargz_files_are_ordinary_files() -> None:
    def chunk(*members: Member, end: bytes = b"") -> bytes:
        return gzip.compress(layer(*members, end=end), mtime=0)

    blob = (
        chunk(file(".prefetch.landmark", b"\x0f"))
        + chunk(file("a", "x"))
        + chunk(file("stargz.index.json", b'{"version":1}'))
        + gzip.compress(END, mtime=0)
    )
    assert list_tar(flatten_layers([blob])) == [
        "f .prefetch.landmark '\\x0f'",
        "f a 'x'",
        "f stargz.index.json '{\"version\":1}'",
    ]


@pytest.mark.parametrize("size", [1, 500_000])
@pytest.mark.parametrize("cut", [512, 1024, 3000])
def test_a_member_with_records_that_is_cut_off(size: int, cut: int) -> None:
    last = file("b", b"y" * 5000, records=((b"mtime", b"1.5"),))
    whole = layer(file("a", bytes(size)), last, end=b"")
    with pytest.raises(ImageError, match="ends"):
        flatten_layers([whole[:-cut]])
