"""Compression: bytes in, bytes out; what is damaged or cut is an ImageError and nothing else."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import random
import struct
import subprocess
import sys
import threading
import zlib
from functools import cache

import pytest

from dimgx import codec, decode, encode, system, zstdframes
from dimgx.errors import ImageError, SourceError, UsageError
from tests.programs import CHECKOUT, need, run

zstd = decode.load_zstd()
FORMATS = ["gzip", "bzip2", "xz", "zstd"]
TEXT = b"".join(b"%d green bottles hanging on the wall\n" % n for n in range(400))
MIXED = TEXT + random.Random(1).randbytes(3000) + bytes(20_000)


@pytest.fixture(params=["isal", "zlib"])
def inflater(request, monkeypatch):
    """With isal and without it."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    else:
        pytest.importorskip("isal")
    return request.param


@pytest.fixture(params=[*FORMATS, "gzip-without-isal"])
def compression(request, monkeypatch):
    """Each format; gzip with isal and without it."""
    if request.param == "gzip-without-isal":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
        return "gzip"
    return request.param


def decoded(data, compression, cut=1 << 20):
    chunks = [data[start : start + cut] for start in range(0, len(data), cut)]
    pieces = [bytes(piece) for piece in decode.iter_decoded(chunks, compression)]
    assert b"" not in pieces  # which would be an end to who asks for the next
    return b"".join(pieces)


@cache
def encoded(data, compression):
    pack = {
        "gzip": lambda: gzip.compress(data, mtime=0),
        "bzip2": lambda: bz2.compress(data),
        "xz": lambda: lzma.compress(data),
        "zstd": lambda: zstd.ZstdCompressor(write_checksum=True).compress(data),
    }
    return pack[compression]()


def compress(data, compression, level=None, threads=1, cut=None):
    out = io.BytesIO()
    encoder = encode.open_encoder(out.write, compression, level, threads)
    for start in range(0, len(data), cut or max(1, len(data))):
        encoder.write(data[start : start + (cut or len(data))])
    encoder.finish()
    return out.getvalue()


# Sniffing

MAGIC = [
    ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", "gzip"),
    ("gzip-with-name", b"\x1f\x8b\x08\x08\x01\x02\x03\x04\x02\x03name\0", "gzip"),
    ("gzip-cut", b"\x1f\x8b", "gzip"),
    ("bzip2", b"BZh91AY&SY\0\0", "bzip2"),
    ("bzip2-of-nothing", b"BZh1\x17\x72\x45\x38\x50\x90\0\0\0\0", "bzip2"),
    ("bzip2-cut", b"BZh91A", "bzip2"),
    ("xz", b"\xfd7zXZ\0\0\4", "xz"),
    ("zstd", b"\x28\xb5\x2f\xfd\0\0", "zstd"),
    ("zstd-skippable", b"\x50\x2a\x4d\x18\4\0\0\0abcd", "zstd"),
    ("zstd-skippable-last", b"\x5f\x2a\x4d\x18\4\0\0\0abcd", "zstd"),
    ("not-skippable", b"\x60\x2a\x4d\x18\4\0\0\0abcd", None),
    ("nothing", b"", None),
    ("one-byte", b"\x1f", None),
    ("zeros", bytes(512), None),
    ("a-file-named-BZh", b"BZh9" + bytes(508), None),
    ("a-file-named-BZhello", b"BZhello.txt\0", None),
    ("text", b'{"schemaVersion": 2}', None),
]


def words_that_come_back(seed):
    """Give a short text in which what it begins with comes back at each of three shifts."""
    made = random.Random(seed)
    head, tail = (bytes(made.choices(range(97, 123), k=count)) for count in (26, 500))
    return memoryview(b"X".join((head, head[:4], head[1:5], head[2:6], tail)))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_gzip_is_the_same_wherever_its_coder_lies_in_memory(level):
    blocks, code = list(map(words_that_come_back, range(10_000))), encode._gzip_format(level).encode
    coded = [b"".join(code(block, threading.Event())) for block in blocks]
    between = [bytes(90_000) for _ in range(5)]
    again = [b"".join(code(block, threading.Event())) for block in blocks]
    del between  # so far it was where the first coders lay
    assert [i for i, pair in enumerate(zip(coded, again, strict=True)) if pair[0] != pair[1]] == []
    for block, data in zip(blocks, again, strict=True):
        assert zlib.decompressobj(-15).decompress(data) == block


@pytest.mark.parametrize(("head", "found"), [c[1:] for c in MAGIC], ids=[c[0] for c in MAGIC])
def test_sniff(head, found):
    assert codec.sniff(head) == found


def test_sniff_knows_what_is_written(compression):
    assert codec.sniff(encoded(MIXED, compression)[:16]) == compression
    assert codec.sniff(compress(MIXED, compression)[:16]) == compression


XZ = lzma.compress(TEXT)
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
WINDOWS = [
    ("xz-0", lzma.compress(TEXT, preset=0), "xz", 1 << 18),
    ("xz-6", lzma.compress(TEXT, preset=6), "xz", 8 << 20),
    ("xz-9", lzma.compress(TEXT, preset=9), "xz", 64 << 20),
    ("plain", bytes(512), None, 0),
    ("xz-largest", XZ[: XZ.index(b"\x21\x01") + 2] + b"\x28", "xz", 2 << 30),
    ("xz-between", XZ[: XZ.index(b"\x21\x01") + 2] + b"\x15", "xz", 6 << 20),
    ("xz-cut", XZ[: XZ.index(b"\x21\x01") + 2], "xz", 8 << 20),
    ("bzip2", bz2.compress(TEXT), "bzip2", 4 << 20),
    ("gzip", gzip.compress(TEXT), "gzip", 1 << 18),
    ("zstd-skippable", b"\x50\x2a\x4d\x18\4\0\0\0abcd", "zstd", 8 << 20),
    ("zstd-cut", ZSTD_MAGIC + b"\0", "zstd", 8 << 20),
    ("zstd-between", ZSTD_MAGIC + b"\0\x3b", "zstd", 11 << 14),
    ("zstd-largest", ZSTD_MAGIC + b"\0\xff", "zstd", 2 << 30),
    ("zstd-dictionary", ZSTD_MAGIC + b"\xa3ABCD\1\2\3\0\4", "zstd", 0x30201),
    ("zstd-large-content", ZSTD_MAGIC + b"\xe0" + b"\xff" * 8, "zstd", 2 << 30),
]


@pytest.mark.parametrize(
    ("data", "compression", "size"), [c[1:] for c in WINDOWS], ids=[c[0] for c in WINDOWS]
)
def test_window_size(data, compression, size):
    assert codec.window_size(data[:64], compression) == size


@pytest.mark.parametrize("log", [10, 17, 21, 27])
def test_window_size_of_zstd(log):
    frame = zstd_of_window(MIXED, log)
    assert codec.window_size(frame[:64], "zstd") == 1 << log


@pytest.mark.parametrize("size", [100, 300, 5000, 100_000])
def test_window_size_of_a_single_segment_is_its_content(size):
    assert codec.window_size(zstd.compress(bytes(size))[:64], "zstd") == size


def zstd_of_window(data, log):
    """Give a frame that does not say how much its content is."""
    options = zstd.ZstdCompressionParameters(window_log=log)
    coder = zstd.ZstdCompressor(compression_params=options).compressobj()
    return coder.compress(data) + coder.flush()


# Decoding


@pytest.mark.parametrize("cut", [1, 7, 100, 1 << 16, 1 << 20])
@pytest.mark.parametrize("data", [b"", b"x", MIXED], ids=["empty", "byte", "mixed"])
def test_decodes_however_it_is_cut(compression, cut, data):
    assert decoded(encoded(data, compression), compression, cut) == data


def test_without_a_compression_chunks_pass_unchanged():
    assert list(decode.iter_decoded([b"ab", b"", b"c"], None)) == [b"ab", b"", b"c"]


def test_a_reused_buffer_is_read_before_the_next_chunk():
    packed = encoded(MIXED, "zstd")

    def chunks():
        buffer = memoryview(bytearray(1000))
        for start in range(0, len(packed), 1000):
            piece = packed[start : start + 1000]
            buffer[: len(piece)] = piece
            yield buffer[: len(piece)]
            buffer[:] = bytes(1000)

    assert b"".join(bytes(p) for p in decode.iter_decoded(chunks(), "zstd")) == MIXED


@pytest.mark.parametrize("cut", [1, 13, 1 << 20])
def test_all_parts_are_decoded(compression, cut):
    part, empty = encoded(TEXT, compression), encoded(b"", compression)
    assert decoded(part + empty + part + empty, compression, cut) == TEXT * 2


def test_many_small_members_take_no_quadratic_time(inflater):
    member = encoded(b"x" * 40, "gzip")
    assert decoded(member * 50_000, "gzip") == b"x" * 40 * 50_000


def exactly(size, compression):
    """A part of `TEXT` that takes `size` bytes, by a long name or a skippable frame before it."""
    part = encoded(TEXT, compression)
    if compression == "gzip":
        return part[:3] + b"\x08" + part[4:10] + b"n" * (size - len(part) - 1) + b"\0" + part[10:]
    room = size - len(part) - 8
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", room) + bytes(room) + part


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("feeds", [1, 3, 7, 11, 15])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_parts_that_end_where_a_feed_ends(compression, feeds, off):
    # Feeds are of 64, 128, 256 and again 256 KiB; a header has 256 KiB at most.
    head = random.Random(2).randbytes(max(0, feeds * (1 << 16) - (1 << 17)))
    first = encoded(head, compression) if head else b""
    part = exactly(feeds * (1 << 16) + off - len(first), compression)
    small = encoded(b"x", compression)
    expected = head + TEXT + b"x" + TEXT + b"x"
    assert decoded(first + part + small + part + small, compression, 1 << 20) == expected


def test_small_members_after_a_large_one(inflater):
    large, small = random.Random(3).randbytes(3 << 20), encoded(b"x" * 40, "gzip")
    data = encoded(large, "gzip") + small * 20_000
    assert decoded(data, "gzip") == large + b"x" * 40 * 20_000


def test_a_bomb_comes_in_bounded_pieces(compression):
    packed = encoded(bytes(20 << 20), compression)
    total = 0
    for piece in decode.iter_decoded([packed], compression):
        assert len(piece) <= 1 << 19
        total += len(piece)
    assert total == 20 << 20


def test_cut_at_any_byte_is_an_error(compression):
    packed = encoded(TEXT[:3000], compression)
    for size in range(len(packed)):
        with pytest.raises(ImageError, match=f"^{compression} stream ends early"):
            decoded(packed[:size], compression)


def test_cut_at_any_byte_of_a_second_part_is_an_error(compression):
    packed = encoded(TEXT[:200], compression)
    for size in range(1, len(packed)):
        with pytest.raises(ImageError, match=f"^{compression} stream "):
            decoded(packed + packed[:size], compression)


def test_a_flipped_bit_is_an_error_or_changes_nothing(compression):
    data = TEXT[:3000]
    packed = encoded(data, compression)
    unnoticed = 0
    for bit in range(len(packed) * 8):
        broken = bytearray(packed)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            assert decoded(bytes(broken), compression) == data
        except ImageError:
            continue
        unnoticed += 1
    # Bits that mean nothing: gzip's time and system, a window's size, codes that are not used.
    assert unnoticed <= {"gzip": 60, "zstd": 40, "bzip2": 40, "xz": 0}[compression]


def test_a_flipped_bit_in_zstd_without_a_checksum_never_breaks_anything_else():
    packed = zstd.compress(TEXT[:3000])
    assert not packed[4] & 4
    for bit in range(len(packed) * 8):
        broken = bytearray(packed)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            decoded(bytes(broken), "zstd")
        except ImageError:
            pass


@pytest.mark.parametrize("seed", range(20))
def test_noise_behind_a_magic_number_is_an_error(compression, seed):
    noise = random.Random(seed).randbytes(5000)
    head = encoded(TEXT, compression)[: 4 + seed]
    with pytest.raises(ImageError):
        decoded(head + noise, compression)


@pytest.mark.parametrize("garbage", [b"x", b"garbage behind it", b"\0\0\0\0x", b"\1" * 70_000])
def test_something_else_behind_is_an_error(compression, garbage):
    with pytest.raises(ImageError, match="pull or copy it again"):
        decoded(encoded(TEXT, compression) + garbage, compression)


PADDING = [
    ("gzip", 1, True),
    ("gzip", 512, True),
    ("gzip", 200_001, True),
    ("xz", 4, True),
    ("xz", 70_000, True),
    ("xz", 3, False),
    ("xz", 70_001, False),
    ("bzip2", 4, False),
    ("zstd", 4, False),
]


@pytest.mark.parametrize(("compression", "size", "is_good"), PADDING)
@pytest.mark.parametrize("cut", [1000, 1 << 20])
def test_padding(inflater, compression, size, is_good, cut):
    packed = encoded(TEXT, compression) + bytes(size)
    if is_good:
        assert decoded(packed, compression, cut) == TEXT
    else:
        with pytest.raises(ImageError, match=f"^{compression} stream"):
            decoded(packed, compression, cut)


@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_another_part_after_padding(compression):
    part = encoded(TEXT, compression)
    assert decoded(part + bytes(8) + part, compression) == TEXT * 2


def test_xz_padded_by_three_before_another_stream_is_an_error():
    part = encoded(TEXT, "xz")
    with pytest.raises(ImageError, match="padded wrongly"):
        decoded(part + bytes(3) + part, "xz")


def test_padding_alone_is_no_gzip_stream():
    with pytest.raises(ImageError):
        decoded(bytes(100), "gzip")


def gzip_header(flags, *fields, crc_is_good=True):
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\1\2\3\4\2\3" + b"".join(fields)
    if flags & 2:
        header += struct.pack("<H", (zlib.crc32(header) ^ (not crc_is_good)) & 0xFFFF)
    return header


EXTRA, NAME, COMMENT = b"\4\0abcd", b"layer.tar\0", b"a comment\0"
HEADERS = [
    (0, ()),
    (1, ()),
    (2, ()),
    (4, (EXTRA,)),
    (8, (NAME,)),
    (16, (COMMENT,)),
    (31, (EXTRA, NAME, COMMENT)),
]


@pytest.mark.parametrize(("flags", "fields"), HEADERS)
@pytest.mark.parametrize("cut", [1, 1 << 20])
def test_gzip_header_options(inflater, flags, fields, cut):
    body = encoded(TEXT, "gzip")[10:]
    assert decoded(gzip_header(flags, *fields) + body, "gzip", cut) == TEXT


def test_gzip_header_with_a_wrong_checksum_is_an_error(inflater):
    body = encoded(TEXT, "gzip")[10:]
    with pytest.raises(ImageError, match="gzip stream is damaged"):
        decoded(gzip_header(10, NAME, crc_is_good=False) + body, "gzip")


HEADER_FAULTS = [
    ("reserved-flag", b"\x1f\x8b\x08\x20" + bytes(6)),
    ("other-method", b"\x1f\x8b\x07\0" + bytes(6)),
]


@pytest.mark.parametrize("head", [c[1] for c in HEADER_FAULTS], ids=[c[0] for c in HEADER_FAULTS])
@pytest.mark.parametrize("cut", [1, 3, 1000, 1 << 20])
def test_gzip_header_that_is_wrong_is_an_error(inflater, head, cut):
    with pytest.raises(ImageError, match="gzip stream is damaged"):
        decoded(head + encoded(TEXT, "gzip")[10:], "gzip", cut)


def test_gzip_header_with_unknown_flags_is_told_with_its_place(inflater):
    stream = HEADER_FAULTS[0][1] + encoded(TEXT, "gzip")[10:]
    with pytest.raises(ImageError, match=r"\(.*unknown .*flags.*\), at byte 0:"):
        decoded(stream, "gzip")


@pytest.mark.parametrize("cut", [1000, 1 << 20])
def test_gzip_header_without_an_end_is_an_error(inflater, cut):
    # zlib, which keeps nothing of it, looks for the end of a name as long as something comes.
    what = {"isal": "has a header of more", "zlib": "ends early, at byte 300010"}[inflater]
    head = b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 300_000
    with pytest.raises(ImageError, match=f"gzip stream {what}"):
        decoded(head, "gzip", cut)


@pytest.mark.parametrize("cut", [1, 100, 1 << 20])
def test_gzip_is_decoded_into_memory_that_is_given(cut):
    pytest.importorskip("isal")
    packed, memory = encoded(MIXED, "gzip"), memoryview(bytearray(len(MIXED)))
    chunks = [packed[start : start + cut] for start in range(0, len(packed), cut)]
    places = [memory[start : start + 1000] for start in range(0, len(memory), 1000)]
    rooms = iter([*places, memoryview(bytearray(1))])
    pieces = list(decode.iter_decoded(chunks, "gzip", rooms.__next__))
    assert pieces == places
    assert all(piece.obj is memory.obj for piece in pieces)
    assert memory == MIXED


def test_gzip_header_may_be_long(inflater):
    head = b"\x1f\x8b\x08\x0c" + bytes(6) + b"\xff\xff" + bytes(65535) + b"n" * 100_000 + b"\0"
    assert decoded(head + encoded(TEXT, "gzip")[10:], "gzip", 1000) == TEXT


@pytest.mark.parametrize("back", [1, 5])
def test_gzip_checksum_and_length_are_checked(inflater, back):
    packed = bytearray(encoded(TEXT, "gzip"))
    packed[-back] ^= 1
    with pytest.raises(ImageError, match="gzip stream is damaged"):
        decoded(bytes(packed), "gzip")


@pytest.mark.parametrize("cut", [1, 1 << 20])
def test_zstd_skippable_frames(cut):
    frame = encoded(TEXT, "zstd")
    skip = b"\x5a\x2a\x4d\x18" + (1000).to_bytes(4, "little") + bytes(1000)
    assert decoded(skip + frame + skip + skip + frame + skip, "zstd", cut) == TEXT * 2


ZSTD_STREAMS = {
    "single-segment": zstd.compress(TEXT[:200]),
    "sizes-of-2-bytes": zstd.compress(TEXT[:3000]),
    "sizes-of-4-bytes": zstd.compress(bytes(1 << 17)),
    "no-size": zstd.ZstdCompressor(write_content_size=False).compress(MIXED),
    "blocks-of-one-byte": zstd.compress(bytes(300_000)),
    "raw-blocks": zstd.compress(random.Random(2).randbytes(300_000)),
    "checksum": encoded(TEXT, "zstd"),
    "empty": zstd.compress(b""),
    "empty-with-checksum": encoded(b"", "zstd"),
    "skippable": b"\x5a\x2a\x4d\x18\3\0\0\0abc",
}


@pytest.mark.parametrize("first", ZSTD_STREAMS)
@pytest.mark.parametrize("second", ["single-segment", "checksum", "empty", "skippable"])
def test_zstd_cut_off_anywhere_ends_early(first, second):
    head, frame = ZSTD_STREAMS[first], ZSTD_STREAMS[second]
    content = decoded(head, "zstd")
    assert decoded(head + frame, "zstd", 1000) == content + decoded(frame, "zstd")
    cuts = {*range(20), *range(0, len(head), 997), *range(len(head) - 8, len(head))}
    for cut in [n for n in cuts if 0 <= n < len(head)]:
        with pytest.raises(ImageError, match=f"ends early, at byte {cut}:"):
            decoded(head[:cut], "zstd")
    for cut in range(1, len(frame)):
        with pytest.raises(ImageError, match=f"ends early, at byte {len(head) + cut}:"):
            decoded(head + frame[:cut], "zstd", 1000)


@pytest.mark.parametrize("is_passed_over", [False, True])
@pytest.mark.parametrize("descriptor", [n for n in range(256) if not n & 0x18])
def test_zstd_frames_end_where_their_headers_say(descriptor, is_passed_over):
    is_single = descriptor >> 5 & 1
    fields = (0 if is_single else 1) + (0, 1, 2, 4)[descriptor & 3]
    fields += (is_single, 2, 4, 8)[descriptor >> 6]
    blocks = [(1 << 1 | 100 << 3).to_bytes(3, "little"), b"r", (1 | 3 << 3).to_bytes(3, "little")]
    checksum = bytes(4 if descriptor & 4 else 0)
    frame = b"".join([ZSTD_MAGIC, bytes([descriptor]), bytes(fields), *blocks, b"raw", checksum])
    skippable = b"\x5f\x2a\x4d\x18\2\0\0\0ab"
    data, borders = b"", set()
    for part in (frame, skippable, frame):
        data += part
        borders.add(len(data))
    ends = zstdframes.FrameEnds()
    while ends.position < len(data):
        if is_passed_over and ends.ahead:
            ends.pass_over(ends.ahead)
        else:
            ends.follow(data[ends.position : ends.position + 1])
        assert ends.is_at_end == (ends.position in borders)


@pytest.mark.parametrize(
    "data",
    [b"\x28\xb5\x2f\xfe\0", b"\x60\x2a\x4d\x18\0\0\0\0", ZSTD_MAGIC + b"\0\0\x07\0\0"],
    ids=["magic", "skippable", "block"],
)
def test_what_is_no_zstd_frame_never_ends(data):
    ends = zstdframes.FrameEnds()
    for byte in data + bytes(20):
        ends.follow(bytes([byte]))
        assert not ends.is_at_end


def test_zstd_of_skippable_frames_alone_is_empty():
    assert decoded(b"\x50\x2a\x4d\x18\2\0\0\0ab", "zstd") == b""


def test_zstd_long_window():
    assert decoded(zstd_of_window(MIXED, 28), "zstd") == MIXED


def test_zstd_window_of_2_gib_is_read():
    # Made by hand: magic, no options, the window's exponent, one last raw block of 3 bytes.
    frame = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([(31 - 10) << 3]) + b"\x19\0\0" + b"abc"
    assert codec.window_size(frame + bytes(20), "zstd") == 1 << 31
    assert decoded(frame, "zstd") == b"abc"


def test_zstd_window_beyond_that_is_an_error():
    frame = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([(32 - 10) << 3]) + b"\x19\0\0" + b"abc"
    with pytest.raises(ImageError, match="zstd stream has a window of more than 2 GiB"):
        decoded(frame, "zstd")


def test_xz_that_wants_more_memory_than_there_should_be_is_an_error(monkeypatch):
    monkeypatch.setattr(decode, "XZ_MEMORY_LIMIT", 1 << 20)
    with pytest.raises(ImageError, match="xz stream has a dictionary of more than 2 GiB"):
        decoded(encoded(TEXT, "xz"), "xz")


@pytest.mark.parametrize("size", [0, 5, 100])
@pytest.mark.parametrize(
    "kind", [OSError, EOFError, ValueError, ZeroDivisionError, MemoryError, KeyboardInterrupt]
)
def test_errors_of_the_source_pass_unchanged(compression, kind, size):
    error = kind("the cable")

    def chunks():
        yield encoded(TEXT, compression)[:size]
        raise error

    with pytest.raises(kind) as caught:
        list(decode.iter_decoded(chunks(), compression))
    assert caught.value is error


def test_without_zstd_the_error_says_what_to_install(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(SourceError, match=r"pip install zstandard"):
        decoded(b"", "zstd")


# Encoding

SOME = [b"", b"x", MIXED, TEXT * 100]
LEVELS = [("gzip", n) for n in range(10)] + [("bzip2", 0), ("bzip2", 1), ("bzip2", 9)]
LEVELS += [("xz", 0), ("xz", 6), ("zstd", 1), ("zstd", 9), ("zstd", 19)]
PROGRAMS = {"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd"}


@pytest.mark.parametrize(("compression", "level"), LEVELS)
@pytest.mark.parametrize("data", SOME, ids=["empty", "byte", "mixed", "long"])
def test_comes_back_at_each_level(inflater, compression, level, data):
    assert decoded(compress(data, compression, level), compression) == data


@pytest.mark.parametrize("data", SOME, ids=["empty", "byte", "mixed", "long"])
def test_other_programs_read_it(compression, data):
    program = need(PROGRAMS[compression])
    packed = compress(data, compression)
    done = subprocess.run([program, "-dc"], input=packed, capture_output=True, check=True)
    assert done.stdout == data
    assert done.stderr == b""


def test_output_does_not_depend_on_threads_or_cuts(compression, monkeypatch):
    level = {"gzip": None, "bzip2": 1, "xz": 0, "zstd": 1}[compression]
    data = random.Random(2).randbytes(10_000) * 220 + TEXT
    ways = [(1, 1 << 18), (2, 1 << 20), (3, 99_999), (4, None)]
    results = {compress(data, compression, level, *way) for way in ways}
    assert len(results) == 1


def test_buffers_may_be_reused_after_each_write(compression):
    out = io.BytesIO()
    encoder = encode.open_encoder(out.write, compression, None, 2)
    buffer = memoryview(bytearray(10_000))
    for n in range(300):
        buffer[:] = bytes([n % 256]) * 10_000
        encoder.write(buffer)
    encoder.finish()
    expected = b"".join(bytes([n % 256]) * 10_000 for n in range(300))
    assert decoded(out.getvalue(), compression) == expected


def test_gzip_header_says_nothing_of_time_name_or_system():
    assert compress(TEXT, "gzip")[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_gzip_is_one_member(inflater):
    coder = zlib.decompressobj(31)
    data = TEXT * 250
    assert coder.decompress(compress(data, "gzip")) == data
    assert coder.eof
    assert coder.unused_data == b""


def test_zstd_is_one_frame_with_a_checksum():
    data = TEXT * 250
    packed = compress(data, "zstd")
    assert packed[4] & 4
    coder = zstd.ZstdDecompressor().decompressobj()
    assert coder.decompress(packed) == data
    assert coder.eof
    assert coder.unused_data == b""


def test_without_a_compression_bytes_pass_unchanged():
    out = io.BytesIO()
    with encode.encoding(out.write, codec.Coding(None)) as write:
        write(MIXED)
    assert out.getvalue() == MIXED


WRONG = [("gzip", 10), ("gzip", -1), ("bzip2", 10), ("xz", 10), ("zstd", 0), ("zstd", 20)]


@pytest.mark.parametrize(("compression", "level"), [*WRONG, (None, 1)])
def test_a_level_that_there_is_not_is_refused(compression, level):
    with pytest.raises(UsageError, match=f"level {level}"):
        encode.open_encoder(io.BytesIO().write, compression, level, 1)


def test_xz_uses_fewer_threads_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(system, "free_memory", lambda: 0)
    data = TEXT * 250
    few = compress(data, "xz", 0, threads=8)
    monkeypatch.undo()
    assert few == compress(data, "xz", 0, threads=8)


def encode_threads():
    return [t for t in threading.enumerate() if t.name.startswith("dimgx-encode")]


class Full(Exception):
    pass


def test_an_error_of_the_sink_reaches_the_caller_and_leaves_no_thread(compression, monkeypatch):
    monkeypatch.setattr(encode, "_MIB", 1 << 16)
    taken = 0

    def write(data):
        nonlocal taken
        taken += len(data)
        if taken > 200_000:
            raise Full

    encoder = encode.open_encoder(write, compression, 1, 2)
    noise = random.Random(3)
    with pytest.raises(Full):
        for _ in range(60):
            encoder.write(noise.randbytes(1 << 16))
        encoder.finish()
    assert not encode_threads()
    with pytest.raises(ValueError, match="closed"):
        encoder.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        encoder.finish()
    encoder.abort()


def test_an_error_of_the_sink_at_the_end_reaches_the_caller(compression):
    def write(_):
        raise Full

    encoder = encode.open_encoder(write, compression, None, 2)
    encoder.write(b"abc")
    with pytest.raises(Full):
        encoder.finish()
    assert not encode_threads()


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_memory_that_is_out_in_a_worker_is_told(compression, monkeypatch):
    def fail(*_args, **_kwargs):
        raise MemoryError

    for module, name in ((zlib, "compressobj"), (bz2, "compress"), (lzma, "LZMACompressor")):
        monkeypatch.setattr(module, name, fail)
    encoder = encode.open_encoder(io.BytesIO().write, compression, 9, 2)
    encoder.write(b"abc")
    with pytest.raises(SourceError, match="memory is too short"):
        encoder.finish()
    assert not encode_threads()


@pytest.mark.parametrize(
    ("compression", "packer"), [("xz", "xz -9"), ("zstd", "zstd --long=28 -1")]
)
def test_memory_that_is_out_is_no_damage(compression, packer, tmp_path):
    """In a process that may have 20 MiB more, where 64 and 256 are wanted."""
    need(packer.split()[0])
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    with plain.open("wb") as file:
        file.truncate(300 << 20 if compression == "zstd" else 10 << 20)
    with packed.open("wb") as out:
        subprocess.run([*packer.split(), "-c", plain], stdout=out, check=True)
    code = f"""
import resource
from dimgx.decode import iter_decoded
from dimgx.errors import SourceError
data = open({str(packed)!r}, "rb").read()
for _ in iter_decoded([data], {compression!r}):
    break  # all is imported now
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (20 << 20),) * 2)
try:
    for _ in iter_decoded([data], {compression!r}):
        pass
except SourceError as exc:
    print(exc)
"""
    done = run([sys.executable, "-c", code], env={"PYTHONPATH": str(CHECKOUT)})
    told = f"there is too little memory to decode {compression}: free some\n"
    assert done.stdout.decode() == told


def test_memory_that_is_out_for_zstd_is_told():
    """Its own threads cannot be started then either, which it tells in the same way."""
    code = """
import resource
from dimgx.encode import open_encoder
from dimgx.errors import SourceError
encoder = open_encoder(lambda data: None, "zstd", 19, 2)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (20 << 20),) * 2)
try:
    encoder.write(b"abc")
except SourceError as exc:
    print(exc)
"""
    done = run([sys.executable, "-c", code], env={"PYTHONPATH": str(CHECKOUT)})
    assert b"zstd gets too little memory, or too few threads" in done.stdout


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_without_threads_the_same_bytes_are_coded(compression):
    alone = compress(TEXT * 250, compression, threads=3)
    threading.stack_size(0)
    assert alone == compress(TEXT * 250, compression, threads=3)


def test_abort_ends_the_threads_and_can_be_repeated(compression):
    encoder = encode.open_encoder(io.BytesIO().write, compression, None, 2)
    encoder.write(random.Random(4).randbytes(6 << 20))
    encoder.abort()
    encoder.abort()
    assert not encode_threads()


def test_finish_ends_the_threads():
    assert decoded(compress(TEXT * 250, "gzip", threads=3), "gzip") == TEXT * 250
    assert not encode_threads()
