"""The functions of dimgx 0.2, for programs that hold a Docker client of their own.

A client is a `docker.APIClient`, or anything with its `images` and `get_image`; what it raises is
passed on. Images are the client's own dicts with some keys more, which begin with a colon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cmp_to_key, partial
from typing import TYPE_CHECKING, Any, Protocol

from dimgx.errors import ImageError, SourceError
from dimgx.sources.daemon import moment_of

if TYPE_CHECKING:
    from datetime import datetime
    from tarfile import TarFile, TarInfo

    from dimgx.extractor import Entry, FlatTar
    from dimgx.image import Layer
    from dimgx.sources.archive import ArchiveFiles

_PIECE = 1 << 20


class Client(Protocol):
    """What is needed of a Docker client."""

    def images(self, *, all: bool) -> list[dict[str, Any]]:
        """Give the descriptions of all images."""

    def get_image(self, image: str) -> Any:
        """Give the archive of an image, as pieces or as a binary file."""


def normalizeimage(desc: dict[str, Any], copy: bool = False) -> dict[str, Any]:
    """Give `desc`, an image as a client describes it, with the same keys whatever it came from.

    ':id' is 64 hex digits, ':short_id' the first 12 of them, ':parent_id' '' where there is no
    parent, ':created_dt' an aware datetime, ':repo_tags' the names, short ones for ':latest' too.
    With `copy`, `desc` stays as it is.

    Raises: SourceError where it has no ID or no time.
    """
    if copy:
        from copy import deepcopy

        desc = deepcopy(desc)
    id = _hex(_first(desc, "Id", "id"))
    if not id:
        raise SourceError("an image without an ID")
    desc[":id"] = id
    desc[":short_id"] = id[:12]
    desc[":parent_id"] = _hex(_first(desc, "ParentId", "Parent", "parent"))
    desc[":created_dt"] = _parse_created(_first(desc, "Created", "created"))
    tags: list[str] = []
    for name in desc.get("RepoTags") or ():
        if name != "<none>:<none>":
            tags += [name.removesuffix(":latest"), name] if name.endswith(":latest") else [name]
    desc[":repo_tags"] = tags
    return desc


def _compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    if one[":created_dt"] != other[":created_dt"]:
        return -1 if one[":created_dt"] < other[":created_dt"] else 1
    return int(one[":parent_id"] == other[":id"]) - int(other[":parent_id"] == one[":id"])


imagekey = cmp_to_key(_compare)
"""Gives the key that sorts normalized images by age, a parent before its child."""


def inspectlayers(client: Client, image_spec: str) -> dict[str, Any]:
    """Give the image that `image_spec` names (a tag or the beginning of an ID) and its ancestors.

    ':layers' lists them, newest first; each also has ':child_ids', the IDs of images built on it.
    Every ID, every beginning of one and every tag is a key too, whose value is an index into that
    list; a beginning that fits several is None. ':all_images' has all images by their IDs.

    Raises: SourceError where there is no such image, or more than one.
    """
    images = _images_by_id(client)
    for image in images.values():
        image[":child_ids"] = []
    for image in sorted(images.values(), key=imagekey, reverse=True):
        if image[":parent_id"] in images:
            images[image[":parent_id"]][":child_ids"].append(image[":id"])
    top = _find(images, image_spec)
    layers = list(_chain(images, top))
    found: dict[str, Any] = {":all_images": images, ":layers": layers}
    for index, layer in enumerate(layers):
        id = layer[":id"]
        for end in range(1, len(id) + 1):
            found[id[:end]] = None if id[:end] in found else index
        found[f"sha256:{id}"] = index
        found.update(dict.fromkeys(layer[":repo_tags"], index))
    return found


def extractlayers(
    client: Client,
    layers: Sequence[Mapping[str, Any]],
    tar_file: TarFile,
    top_most_layer: int | str = 0,
) -> None:
    """Merge `layers`, of which the first covers those behind it, into `tar_file`.

    `top_most_layer` says which image the engine saves, by an index into `layers` or an ID: it is
    the one that all others are ancestors of. What an image brought besides its own step, as one
    that was pulled did, comes with it. The members are written as they are, whatever the format
    of `tar_file`.

    Raises: ImageError for a layer that is damaged or not of that image; SourceError; IndexError
        where `layers` has no such index.
    """
    from dimgx.extractor import open_flat
    from dimgx.recipe import Recipe
    from dimgx.sources.opening import Opening, open_stream
    from dimgx.spool import SpoolSpace

    if not layers:
        return
    ids = [_hex(layer[":id"]) for layer in layers]
    spec = ids[top_most_layer] if isinstance(top_most_layer, int) else top_most_layer
    with ExitStack() as stack:
        space = stack.enter_context(SpoolSpace(None))
        # An engine with containerd's store takes a whole ID only as it spells it itself.
        spelled = {id: _first(layer, "Id", "id") for id, layer in zip(ids, layers, strict=True)}
        chunks = _iter_chunks(client.get_image(spelled.get(spec) or spec))
        files = open_stream(chunks, Opening(f"the archive of {spec:.300}", space))
        by_id = _layers_by_id(files, client, spec)
        chosen: list[Layer] = []
        for id in reversed(ids):
            if id not in by_id:
                raise ImageError(f"{id[:12]} is no ancestor of {spec:.300}, which was saved")
            chosen += by_id[id]
        flat = stack.enter_context(open_flat(chosen, Recipe()))
        flat.verify()
        _append(flat, tar_file)


def _first(desc: Mapping[str, Any], *keys: str) -> Any:
    return next((desc[key] for key in keys if desc.get(key) is not None), None)


def _hex(id: object) -> str:
    return str(id or "").lower().removeprefix("sha256:")


def _parse_created(created: object) -> datetime:
    """Give the time that seconds since 1970, or RFC 3339 with any number of digits, tell."""
    if isinstance(created, str):
        from datetime import UTC

        from dateutil.parser import isoparse

        try:
            found = isoparse(created)
        except ValueError as exc:
            raise SourceError(f"{created!r:.100} is no time") from exc
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    moment = moment_of(created)
    if moment is None:
        raise SourceError(f"{created!r:.100} is no time")
    return moment


def _images_by_id(client: Client) -> dict[str, dict[str, Any]]:
    return {image[":id"]: image for image in map(normalizeimage, client.images(all=True))}


def _find(images: Mapping[str, dict[str, Any]], spec: str) -> dict[str, Any]:
    named = [image for image in images.values() if spec in image[":repo_tags"]]
    prefix = _hex(spec)
    alike = [image for id, image in images.items() if prefix and id.startswith(prefix)]
    found = named or alike
    if not found:
        raise SourceError(f"there is no image {spec!r:.300}")
    if len(found) > 1:
        shown = ", ".join(image[":short_id"] for image in found[:8])
        raise SourceError(f"{spec!r:.300} is ambiguous: {shown}")
    return found[0]


def _chain(images: Mapping[str, dict[str, Any]], top: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an image and its ancestors as far as they are known, newest first."""
    image: dict[str, Any] | None = top
    seen = set()
    while image is not None and image[":id"] not in seen:
        seen.add(image[":id"])
        yield image
        image = images.get(image[":parent_id"])


def _iter_chunks(archive: Any) -> Iterator[bytes]:
    if hasattr(archive, "read"):
        return iter(partial(archive.read, _PIECE), b"")
    pieces: Iterable[bytes] = archive
    return iter(pieces)


def _layers_by_id(files: ArchiveFiles, client: Client, spec: str) -> dict[str, list[Layer]]:
    """Give the layers that each image of the chain brought, base to top."""
    from dimgx.image import Layer
    from dimgx.reference import Reference
    from dimgx.sources.formats import read_image

    if not any(files.find(name) for name in ("manifest.json", "index.json", "repositories")):
        # The oldest form, as it is: the IDs are the names of directories.
        suffix = "/layer.tar"
        found = {name.removesuffix(suffix) for name in files.names() if name.endswith(suffix)}
        tars = ((id, files.find(id + suffix)) for id in found)
        return {_hex(id): [Layer(tar)] for id, tar in tars if tar is not None}
    image = read_image(files, Reference(spec, "docker-archive"), None)
    by_step: list[list[Layer]] = []
    rest = iter(image.layers)
    if sum(not step.empty for step in image.history) == len(image.layers):
        by_step = [[] if step.empty else [next(rest)] for step in image.history]
    if by_step and image.history[-1].id is not None:
        pairs = zip(image.history, by_step, strict=True)
        return {_hex(step.id): own for step, own in pairs if step.id}
    images = _images_by_id(client)
    chain = list(_chain(images, _find(images, spec)))
    own_steps = len(chain) - 1
    if own_steps and own_steps >= len(by_step):
        raise ImageError(f"{spec:.300} has more ancestors than steps")
    # Each image is one step more than its parent; the base has all that is left.
    cut = len(by_step) - own_steps
    base = [layer for step in by_step[:cut] for layer in step] if by_step else [*image.layers]
    return {
        chain[-1][":id"]: base,
        **{one[":id"]: own for one, own in zip(reversed(chain[:-1]), by_step[cut:], strict=True)},
    }


def _append(flat: FlatTar, tar_file: TarFile) -> None:
    """Write a flat tar into `tar_file` without its end, and list its members there."""
    from dimgx.layers.tarwrite import END

    left = length = flat.length - len(END)
    fileobj: Any = tar_file.fileobj

    def write(data: bytes | memoryview) -> None:
        nonlocal left
        piece = data[:left]
        fileobj.write(piece)
        left -= len(piece)

    members = [_member(entry) for entry in flat.iter_entries()]
    flat.emit(write)
    tar_file.offset += length
    # What `addfile` does for one.
    tar_file.members += members  # type: ignore[attr-defined]  # the stubs leave it out


def _member(entry: Entry) -> TarInfo:
    import tarfile

    types = {
        "file": tarfile.REGTYPE, "link": tarfile.LNKTYPE, "symlink": tarfile.SYMTYPE,
        "chardev": tarfile.CHRTYPE, "blockdev": tarfile.BLKTYPE, "directory": tarfile.DIRTYPE,
        "fifo": tarfile.FIFOTYPE,
    }  # fmt: skip
    member = tarfile.TarInfo(entry.path.decode("utf-8", "surrogateescape"))
    member.type = types[entry.type]
    member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
    member.mtime, member.size = entry.mtime, entry.size
    member.linkname = entry.linkname.decode("utf-8", "surrogateescape")
    member.devmajor, member.devminor = entry.devmajor, entry.devminor
    return member
