"""Random stacks of layers through the program and through the reference model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import assume, event, given
from hypothesis import strategies as st

from dimgx.errors import ImageError
from tests import model
from tests.cases import flatten_layers
from tests.dsl import Member, chardev, dir_, fifo, file, hardlink, layer, sparse, symlink
from tests.listing import list_tar
from tests.writers import compress

# Few and short names, so that everything meets everything; some sort between `a` and `a/`.
NAMES = st.sampled_from(["a", "b", "a.", "a-", "c", "\u00e9"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
SPELLINGS = st.sampled_from(["", "", "", "./", "/", ".//", "c/../"])
DIALECTS = st.sampled_from(["ustar", "ustar", "gnu", "pax", "v7"])
XATTRS = st.sampled_from([{}, {}, {}, {"user.a": b"1"}, {"user.b": b"\0\n", "user.a": b"2"}])
TARGETS = st.one_of(
    PATHS, PATHS.map(lambda path: "/" + path), PATHS.map(lambda path: "../" + path),
    st.sampled_from([".", "/", "a", "b"]),
)  # fmt: skip


@st.composite
def attributes(draw: st.DrawFn, xattrs: bool = True) -> dict[str, Any]:
    """Few values of each, so that entries are often equal in some and different in others."""
    found: dict[str, Any] = {
        "mode": draw(st.sampled_from([0o644, 0o755, 0o700, 0o4711])),
        "uid": draw(st.sampled_from([0, 0, 1, 3_000_000])),
        "mtime": draw(st.sampled_from([0, 5, 1_700_000_000, "7.5"])),
        "dialect": draw(DIALECTS),
    }
    if found["dialect"] == "v7":
        found["uid"] %= 1_000_000
        found["mtime"] = 5 if found["mtime"] == "7.5" else found["mtime"]
    elif xattrs:
        found["xattrs"] = draw(XATTRS)
    return found


@st.composite
def members(draw: st.DrawFn) -> Member:
    path = draw(SPELLINGS) + draw(PATHS)
    more = draw(attributes())
    kind = draw(
        st.sampled_from(["file"] * 6 + ["dir"] * 4 + ["symlink"] * 3 + ["hardlink"] * 4
                        + ["whiteout"] * 3 + ["opaque", "device", "fifo", "sparse", "overlay"])
    )  # fmt: skip
    parent, slash, base = path.rpartition("/")
    if kind == "file":
        return file(path, draw(st.sampled_from([b"", b"1", b"2" * 600])), **more)
    if kind == "dir":
        return dir_(path, slash=draw(st.booleans()) or more["dialect"] == "v7", **more)
    if kind == "symlink":
        return symlink(path, draw(TARGETS), **(more | {"mode": 0o777, "xattrs": {}}))
    if kind == "hardlink":
        return hardlink(path, draw(SPELLINGS) + draw(PATHS), **more)
    if kind in ("whiteout", "opaque"):
        where = draw(st.sampled_from([path + "/", parent + slash, parent + slash]))
        name = parent + slash + ".wh." + base if kind == "whiteout" else where + ".wh..wh..opq"
        if draw(st.integers(0, 3)):
            return file(name, **more)
        return chardev(name, 0, draw(st.integers(0, 1)), **(more | {"dialect": "ustar"}))
    if kind == "device":
        return chardev(path, 1, 3, **(more | {"dialect": "ustar"}))
    if kind == "overlay":
        return chardev(path, 0, 0, **(more | {"dialect": "ustar"}))
    if kind == "sparse":
        form = draw(st.sampled_from(["0.0", "0.1", "1.0", "gnu"]))
        return sparse(path, [(10, b"data")], 700, form, **(more | {"dialect": "ustar"}))
    return fifo(path, **more)


STACKS = st.lists(st.lists(members(), max_size=7), min_size=1, max_size=4)


def expected_of(layers: Sequence[Sequence[Member]]) -> list[str] | None:
    """Give the model's listing, or None for an error; throw away what no rule decides."""
    try:
        return model.expected_listing(layers)
    except model.Malformed:
        event("malformed")
        return None
    except model.Unspecified:
        assume(False)
        raise


@given(STACKS)
def test_program_and_model_agree(layers: list[list[Member]]) -> None:
    expected = expected_of(layers)
    tars = [layer(*some) for some in layers]
    if expected is None:
        try:
            found = list_tar(flatten_layers(tars))
        except ImageError as error:
            assert "\n" not in str(error)
            return
        raise AssertionError(f"not refused: {found}")
    tar = flatten_layers(tars)
    assert list_tar(tar) == expected
    assert flatten_layers([tar]) == tar, "flattening the flattened changes it"


@given(
    STACKS,
    st.lists(st.sampled_from([None, "gzip", "bzip2", "xz", "zstd"]), min_size=4, max_size=4),
    st.integers(1, 4),
    st.sampled_from([None, 0, 1, 3000, 1 << 20]),
)
def test_the_same_bytes_whatever_the_means(
    layers: list[list[Member]], kinds: list[Any], threads: int, memory: int | None
) -> None:
    assume(expected_of(layers) is not None)
    tars = [layer(*some) for some in layers]
    packed = [compress(tar, kind) for tar, kind in zip(tars, kinds, strict=False)]
    plain = flatten_layers(tars, threads=1)
    assert flatten_layers(packed, threads=threads, memory=memory, verify="none") == plain


@given(STACKS)
def test_layers_one_by_one_or_all_at_once(layers: list[list[Member]]) -> None:
    """A layer that hides nothing and links to nothing below may be flattened by itself first."""
    assume(expected_of(layers) is not None)
    whole = flatten_layers([layer(*some) for some in layers])
    try:
        base = flatten_layers([layer(*some) for some in layers[:-1]])
    except ImageError:
        return
    assert flatten_layers([base, layer(*layers[-1])]) == whole
