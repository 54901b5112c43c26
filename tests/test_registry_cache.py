"""The cache of blobs: what it spares, what it never trusts, and how processes share it."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest

import dimgx
from dimgx import RegistryOptions
from dimgx.digest import Digest
from dimgx.sources.blobcache import BlobCache
from tests.dsl import file, layer
from tests.leftovers import open_files
from tests.programs import CHECKOUT
from tests.programs import dimgx as run_dimgx
from tests.registries import FaultyRegistry, Handler, faulty_registry, flat
from tests.writers import image, sha256

BASE = layer(file("etc/base", random.Random(7).randbytes(200_000)))
TOP = layer(file("etc/top", b"above"))
APP = image(BASE, TOP)
BASE_HEX = sha256(APP.blobs("gzip")[0])
LIMIT = 1 << 30


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def stored(cache: Path) -> set[str]:
    return {path.name for path in (cache / "blobs").glob("*/*")}


def left_over(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and "blobs" not in path.parts]


def test_second_run_fetches_the_manifest_only(faulty: FaultyRegistry, cache: Path) -> None:
    first = flat(faulty.reference(), cache_dir=str(cache))
    assert stored(cache) == {sha256(blob) for blob in APP.blobs("gzip")} | {APP.id()}
    assert not left_over(cache)
    faulty.requests.clear()
    assert flat(faulty.reference(), cache_dir=str(cache)) == first
    assert faulty.paths() == ["manifests/1"]


def test_index_needs_its_own_manifest_only(faulty: FaultyRegistry, cache: Path) -> None:
    entry = faulty.add(APP) | {"platform": {"os": "linux", "architecture": "amd64"}}
    faulty.add_index([entry], "index")
    first = flat(faulty.reference("index"), cache_dir=str(cache))
    faulty.requests.clear()
    assert flat(faulty.reference("index"), cache_dir=str(cache)) == first
    assert faulty.paths() == ["manifests/index"]


def test_images_share_their_base(faulty: FaultyRegistry, cache: Path) -> None:
    for k in range(4):
        faulty.add(image(BASE, layer(file(f"f{k}", b"x"))), f"v{k}")
        flat(faulty.reference(f"v{k}"), cache_dir=str(cache))
    assert sum(BASE_HEX in path for path in faulty.paths()) == 1


@pytest.mark.parametrize("damage", ["flip", "short", "long", "empty"])
def test_damaged_blob_is_fetched_again(
    faulty: FaultyRegistry, cache: Path, damage: str
) -> None:
    first = flat(faulty.reference(), cache_dir=str(cache))
    place = cache / "blobs/sha256" / BASE_HEX
    data = bytearray(place.read_bytes())
    good = bytes(data)
    data[1000] ^= 1
    place.write_bytes({"flip": bytes(data), "short": good[:-1], "long": good + b"\0",
                       "empty": b""}[damage])  # fmt: skip
    assert flat(faulty.reference(), cache_dir=str(cache)) == first
    assert place.read_bytes() == good


def test_what_does_not_match_is_not_kept(faulty: FaultyRegistry, cache: Path) -> None:
    blob = bytearray(faulty.blobs[BASE_HEX])
    blob[-20_000] ^= 1
    faulty.blobs[BASE_HEX] = bytes(blob)
    options = RegistryOptions(cache_dir=str(cache))
    with dimgx.open_image(faulty.reference(), platform="linux/amd64", registry=options) as found:
        assert b"".join(found.layers[0].blob.iter_chunks()) == bytes(blob)
    assert BASE_HEX not in stored(cache) and not left_over(cache)


def test_reader_that_leaves_keeps_nothing(faulty: FaultyRegistry, cache: Path) -> None:
    options = RegistryOptions(cache_dir=str(cache))
    with dimgx.open_image(faulty.reference(), platform="linux/amd64", registry=options) as found:
        chunks = found.layers[0].blob.iter_chunks()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # a generator
    assert BASE_HEX not in stored(cache) and not left_over(cache)


def put(cache: BlobCache, data: bytes) -> Digest:
    digest = Digest.of(data)
    slot = cache.open(digest, len(data), Event())
    assert slot.iter_stored() is None
    slot.write(data)
    slot.commit()
    slot.close()
    return digest


def has(cache: BlobCache, digest: Digest, size: int) -> bool:
    slot = cache.open(digest, size, Event())
    try:
        return slot.iter_stored() is not None
    finally:
        slot.close()


def test_what_was_used_longest_ago_goes(cache: Path) -> None:
    blobs = BlobCache(str(cache), 3000, pytest.fail)
    first, second, third = (put(blobs, bytes([k]) * 1000) for k in range(3))
    for age, digest in enumerate((first, second, third)):
        os.utime(cache / "blobs/sha256" / digest.hex, (age, age))
    assert has(blobs, first, 1000)  # used now
    put(blobs, b"4" * 1000)
    assert stored(cache) == {first.hex, third.hex, Digest.of(b"4" * 1000).hex}
    put(blobs, b"5" * 2500)
    assert stored(cache) == {Digest.of(b"5" * 2500).hex}
    put(blobs, b"6" * 3001)
    assert stored(cache) == {Digest.of(b"5" * 2500).hex}
    # Nor does one stay that is larger than was said.
    slot = blobs.open(Digest.of(b"7" * 3001), 3000, Event())
    slot.write(b"7" * 3001)
    slot.commit()
    assert not stored(cache)


def test_wrong_size_does_not_drive_out_a_good_blob(cache: Path) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    before = open_files()
    digest = put(blobs, b"data")
    assert not has(blobs, digest, 5)
    assert has(blobs, digest, 4)
    assert open_files() <= before


def test_left_over_of_a_killed_process_is_taken_over(cache: Path) -> None:
    digest = Digest.of(b"data")
    partial = cache / "partial/sha256" / digest.hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"something else, and longer")
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    put(blobs, b"data")
    assert has(blobs, digest, 4) and not left_over(cache)


def test_left_over_of_a_killed_process_goes_even_if_nobody_wants_that_blob(cache: Path) -> None:
    partial = cache / "partial/sha256" / Digest.of(b"data").hex
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"da")
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    coming = blobs.open(Digest.of(b"still coming"), 12, Event())
    coming.write(b"still ")
    put(blobs, b"other")
    assert [path.name for path in left_over(cache)] == [Digest.of(b"still coming").hex]
    coming.write(b"coming")
    coming.commit()
    assert has(blobs, Digest.of(b"still coming"), 12) and not left_over(cache)


def test_place_that_cannot_be_begun_is_left_at_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "ftruncate", fail)
    before = open_files()
    BlobCache(str(cache), LIMIT, str).open(Digest.of(b"data"), 4, Event()).close()
    assert open_files() <= before and not left_over(cache)


def test_interrupt_right_behind_the_end_of_a_file_is_not_a_bad_descriptor(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(fd: int) -> None:
        close(fd)
        raise KeyboardInterrupt

    slot = BlobCache(str(cache), LIMIT, str).open(Digest.of(b"data"), 4, Event())
    close = os.close
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "close", interrupted)
        slot.close()
    slot.close()


def test_second_reader_waits_for_the_first(cache: Path) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    data = random.Random(7).randbytes(5000)
    digest = Digest.of(data)
    before = open_files()
    slot = blobs.open(digest, len(data), Event())
    found: list[bytes] = []

    def wait() -> None:
        other = BlobCache(str(cache), LIMIT, pytest.fail).open(digest, len(data), Event())
        found.append(b"".join(map(bytes, other.iter_stored() or ())))
        other.close()

    thread = threading.Thread(target=wait)
    thread.start()
    slot.write(data[:2000])
    time.sleep(0.3)
    assert thread.is_alive()
    slot.write(data[2000:])
    slot.commit()
    slot.close()
    thread.join()
    assert found == [data] and not left_over(cache)
    assert open_files() <= before


def test_second_reader_takes_over_when_the_first_gives_up(cache: Path) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    slot = blobs.open(Digest.of(b"data"), 4, Event())
    done = Event()

    def wait() -> None:
        put(BlobCache(str(cache), LIMIT, pytest.fail), b"data")
        done.set()

    threading.Thread(target=wait).start()
    time.sleep(0.2)
    assert not done.is_set()
    slot.close()
    assert done.wait(60) and has(blobs, Digest.of(b"data"), 4)


def test_lock_of_a_file_that_was_stored_meanwhile_is_none(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    digest = Digest.of(b"data")
    coming = [blobs.open(digest, 4, Event())]
    coming[0].write(b"data")
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        if coming:
            coming.pop().commit()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    found = blobs.open(digest, 4, Event())
    assert b"".join(map(bytes, found.iter_stored() or ())) == b"data"
    found.close()


def test_who_gets_on_is_waited_for(cache: Path) -> None:
    data = bytes(250)
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    slot = blobs.open(Digest.of(data), len(data), Event())
    left = [data[k : k + 1] for k in range(len(data))]

    class Stopped(Event):
        def wait(self, timeout: float | None = None) -> bool:
            if left:
                slot.write(left.pop())
            else:
                slot.commit()
            return False

    found = blobs.open(Digest.of(data), len(data), Stopped())
    assert b"".join(map(bytes, found.iter_stored() or ())) == data
    found.close()


def test_without_locks_each_process_keeps_to_itself(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    slot = blobs.open(Digest.of(b"data"), 4, Event())
    assert [path.suffix for path in left_over(cache)] == [f".{os.getpid()}"]
    put(blobs, b"other")
    slot.write(b"data")
    slot.commit()
    assert has(blobs, Digest.of(b"data"), 4) and not left_over(cache)


def test_bad_blob_is_removed_at_once(cache: Path) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    digest = put(blobs, b"data")
    before = open_files()
    (cache / "blobs/sha256" / digest.hex).write_bytes(b"dato")
    blobs.open(digest, 4, Event()).close()
    assert not stored(cache) and not left_over(cache)
    assert open_files() <= before


def test_directory_in_the_place_of_a_blob_is_a_warning(cache: Path) -> None:
    (cache / "blobs/sha256" / Digest.of(b"data").hex).mkdir(parents=True)
    warnings: list[str] = []
    put(BlobCache(str(cache), LIMIT, warnings.append), b"data")
    assert warnings == [f"the cache at {cache} cannot be written: Is a directory"]
    assert not left_over(cache)


def test_who_is_stuck_is_not_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dimgx.sources.blobcache._POLL_S", 0.0001)
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    slot = blobs.open(Digest.of(b"data"), 4, Event())
    slot.write(b"da")
    put(BlobCache(str(cache), LIMIT, pytest.fail), b"data")  # which just goes by
    assert not stored(cache) and len(left_over(cache)) == 1
    slot.write(b"ta")
    slot.commit()
    assert has(blobs, Digest.of(b"data"), 4) and not left_over(cache)


def test_waiting_can_be_cancelled(cache: Path) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    slot = blobs.open(Digest.of(b"data"), 4, Event())
    stopped = Event()
    stopped.set()
    with pytest.raises(dimgx.Cancelled):
        blobs.open(Digest.of(b"data"), 4, stopped)
    slot.close()


def test_checking_a_stored_blob_can_be_cancelled(cache: Path) -> None:
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    digest = put(blobs, b"data")
    stopped = Event()
    stopped.set()
    with pytest.raises(dimgx.Cancelled):
        blobs.open(digest, 4, stopped)
    assert has(blobs, digest, 4)


@pytest.mark.parametrize("part", ["blobs", "partial"])
def test_what_is_no_regular_file_is_no_blob(cache: Path, part: str) -> None:
    digest = Digest.of(b"data")
    fifo = cache / part / "sha256" / digest.hex
    fifo.parent.mkdir(parents=True)
    os.mkfifo(fifo)
    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    put(blobs, b"data")
    assert has(blobs, digest, 4) == (part == "blobs")


def test_what_else_lies_in_a_cache_is_in_nobodys_way(cache: Path) -> None:
    for part in ("blobs", "partial"):
        (cache / part / "sha256" / "directory").mkdir(parents=True)
        (cache / part / "sha256" / "link").symlink_to("nowhere")
        (cache / part / "file").touch()
    blobs = BlobCache(str(cache), 4, pytest.fail)
    first, second = put(blobs, b"1111"), put(blobs, b"2222")
    assert has(blobs, second, 4) and not has(blobs, first, 4)


def test_another_users_blob_is_read_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    blobs = BlobCache(str(cache), LIMIT, pytest.fail)
    digest = put(blobs, b"data")
    monkeypatch.setattr(os, "utime", fail)
    assert has(blobs, digest, 4)


def test_full_disk_is_a_warning(
    faulty: FaultyRegistry, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = flat(faulty.reference())
    write = os.write

    def fail(fd: int, data: bytes) -> int:
        if f"/{cache.name}/" in os.readlink(f"/proc/self/fd/{fd}"):
            if len(data) < 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:1000]
        return write(fd, data)

    monkeypatch.setattr(os, "write", fail)
    (told,) = warnings_of(faulty, cache, tmp_path / "out.tar")
    assert told == f"the cache at {cache} cannot be written: No space left on device"
    assert (tmp_path / "out.tar").read_bytes() == expected
    assert not stored(cache) and not left_over(cache)


def test_cache_that_cannot_be_written_is_a_warning(faulty: FaultyRegistry, tmp_path: Path) -> None:
    expected = flat(faulty.reference())
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert warnings_of(faulty, in_the_way, tmp_path / "out.tar") == (
        f"the cache at {in_the_way} cannot be written: Not a directory",
    )
    assert (tmp_path / "out.tar").read_bytes() == expected


def test_cache_that_cannot_be_written_any_more_is_a_warning(
    faulty: FaultyRegistry, cache: Path, tmp_path: Path
) -> None:
    def remove(handler: Handler) -> bool:
        if BASE_HEX in handler.path:
            shutil.rmtree(cache / "blobs")
        return False

    faulty.rules.append(remove)
    # No other layer comes meanwhile, which would make the directory again.
    (told,) = warnings_of(faulty, cache, tmp_path / "out.tar", layers=["@0"])
    assert told == f"the cache at {cache} cannot be written: No such file or directory"


def warnings_of(
    faulty: FaultyRegistry, cache: Path, target: Path, **chosen: Sequence[str]
) -> Sequence[str]:
    options = RegistryOptions(cache_dir=str(cache))
    with dimgx.open_image(
        faulty.reference(), platform="linux/amd64", registry=options
    ) as found:
        dimgx.flatten(found, target, **chosen)  # type: ignore[arg-type]
        return found.warnings


def test_processes_at_once_fetch_once(faulty: FaultyRegistry, cache: Path) -> None:
    def slowly(handler: Handler) -> bool:
        if BASE_HEX in handler.path:
            time.sleep(1)
        return False

    faulty.rules.append(slowly)
    command = [sys.executable, "-m", "dimgx", "--cache-dir", str(cache), "-q", "-t", "-",
               "--platform", "linux/amd64", faulty.reference()]  # fmt: skip
    environ = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) for _ in range(3)
    ]
    results = {process.communicate(timeout=60)[0] for process in running}
    assert len(results) == 1 and [process.returncode for process in running] == [0] * 3
    assert sum(BASE_HEX in path for path in faulty.paths()) == 1


# -- the command's options -----------------------------------------------------------------------


def test_cache_of_the_environment(
    faulty: FaultyRegistry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = ("--platform", "linux/amd64")
    run_dimgx(*platform, "-t", "-", faulty.reference())
    assert not cache.exists()
    monkeypatch.setenv("DIMGX_CACHE_DIR", str(cache))
    run_dimgx(*platform, "-t", "-", faulty.reference())
    assert BASE_HEX in stored(cache)


def test_cache_options_that_cannot_work(
    faulty: FaultyRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIMGX_CACHE_DIR", raising=False)
    done = run_dimgx("--cache-size", "1G", faulty.reference(), ok=False)
    assert done.returncode == 1 and b"--cache-dir" in done.stderr
    (tmp_path / "file").touch()
    done = run_dimgx("--cache-dir", tmp_path / "file", faulty.reference(), ok=False)
    told = f"dimgx: --cache-dir {tmp_path / 'file'} is no directory that can be written to\n"
    assert (done.returncode, done.stderr.decode()) == (2, told)
