"""Images, trees and streams that are closed while something opened from them is in use."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import dimgx
from dimgx.shared import Shared
from tests.dsl import dir_, file, layer
from tests.leftovers import open_files
from tests.writers import docker_archive, image, oci_layout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FORMS = ("docker", "docker of gzip", "oci")
CONTENT = b"content of the file\n" * 9000
PICTURE = image(layer(dir_("d"), file("d/f", CONTENT), file("d/g", b"g")), layer(file("e", b"e")))


@pytest.fixture(params=FORMS)
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "oci":
        return f"oci:{oci_layout(tmp_path / 'layout', PICTURE)}"
    path = tmp_path / "image.tar"
    compression = "gzip" if "gzip" in request.param else None
    path.write_bytes(docker_archive(PICTURE, archive_compression=compression))
    return f"docker-archive:{path}"


@pytest.fixture
def reuse(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Open another file so often that it gets every descriptor that was let go of."""
    other = tmp_path / "other"
    other.write_bytes(b"foreign!" * (1 << 16))
    with ExitStack() as stack:

        def reuse() -> None:
            for _ in range(20):
                stack.enter_context(other.open("rb"))

        yield reuse


def flat_tar(reference: str) -> bytes:
    buffer = io.BytesIO()
    with dimgx.open_image(reference) as found:
        dimgx.flatten(found, buffer)
    return buffer.getvalue()


def test_file_can_be_read_after_its_tree_and_image(
    reference: str, reuse: Callable[[], None]
) -> None:
    with dimgx.open_image(reference) as found, dimgx.open_tree(found) as tree:
        content = tree.open("d/f")
    reuse()
    with content:
        assert content.read() == CONTENT
    with pytest.raises(ValueError, match="closed"):
        content.read()


def test_stream_can_be_read_after_its_image(reference: str, reuse: Callable[[], None]) -> None:
    with dimgx.open_image(reference) as found:
        stream = dimgx.open_stream(found)
    reuse()
    with stream:
        assert stream.read() == flat_tar(reference)


def test_tree_can_be_used_after_its_image(reference: str, reuse: Callable[[], None]) -> None:
    with dimgx.open_image(reference) as found:
        tree = dimgx.open_tree(found)
    reuse()
    with tree:
        assert [entry.path for entry in tree] == [b"d", b"d/f", b"d/g", b"e"]
        assert tree.open("d/f").read() == CONTENT


def test_tree_that_is_closed_says_so(reference: str, reuse: Callable[[], None]) -> None:
    with dimgx.open_image(reference) as found:
        with dimgx.open_tree(found) as tree:
            pass
        reuse()
        for use in (lambda: list(tree), lambda: tree.open("d/f")):
            with pytest.raises(dimgx.UsageError, match="the tree is closed"):
                use()


def test_entries_that_were_begun_come_to_their_end(
    reference: str, reuse: Callable[[], None]
) -> None:
    with dimgx.open_image(reference) as found, dimgx.open_tree(found) as tree:
        entries = iter(tree)
        next(entries)
    reuse()
    assert [entry.path for entry in entries] == [b"d/f", b"d/g", b"e"]


def test_image_that_is_closed_while_it_is_flattened(
    reference: str, reuse: Callable[[], None]
) -> None:
    found = dimgx.open_image(reference)

    class Closing(io.BytesIO):
        def write(self, data: ReadableBuffer) -> int:
            found.close()
            reuse()
            return super().write(data)

    target = Closing()
    dimgx.flatten(found, target)
    assert target.getvalue() == flat_tar(reference)
    with pytest.raises(dimgx.UsageError, match="is closed"):
        dimgx.flatten(found, io.BytesIO())


def test_descriptors_are_let_go_of_with_the_last_user(reference: str) -> None:
    before = open_files()
    found = dimgx.open_image(reference)
    tree = dimgx.open_tree(found)
    content = tree.open("d/f")
    with pytest.raises(dimgx.ImageError):
        tree.open("missing")
    for one in (found, found, tree):
        one.close()
        assert open_files() - before
    content.close()
    assert not open_files() - before


def test_tree_that_is_dropped_holds_no_image(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive(PICTURE))
    before = open_files()
    with dimgx.open_image(tmp_path / "image.tar") as found:
        assert dimgx.open_tree(found).open("d/g").read() == b"g"
    gc.collect()
    assert not open_files() - before


def test_image_and_tree_that_are_dropped_let_go(reference: str) -> None:
    before = open_files()
    found = dimgx.open_image(reference)
    tree = dimgx.open_tree(found)
    content = tree.open("d/g")
    del found, tree
    gc.collect()
    assert content.read() == b"g"
    del content
    gc.collect()
    assert not open_files() - before


def test_last_of_many_threads_lets_go() -> None:
    gone: list[int] = []
    shared = Shared(lambda: gone.append(len(inside)))
    inside: set[int] = set()
    begun, go = threading.Barrier(9), threading.Event()

    def use(number: int) -> None:
        with shared.using("it"):
            inside.add(number)
            begun.wait()
            go.wait()
            inside.discard(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    shared.close()
    assert not gone
    go.set()
    for thread in threads:
        thread.join()
    assert gone == [0]
