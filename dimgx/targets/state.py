"""What lies at a target already: what dimgx made there, from what, and whether it is whole.

1. A tar tells by its first header, so only its head is read and decoded, and a look is had at its
   end. An image form is read like any source, its layers aside.
2. What carries no record, and what is so damaged that its record cannot be read, is not ours.
3. Of ours, that is damaged which is plain to see without reading it all: a tar without its end
   (`packedend` for compressed ones), a layer that is missing or of another size than is stated.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dimgx.codec import HEAD, sniff
from dimgx.decode import iter_decoded
from dimgx.errors import ImageError, SourceError
from dimgx.extent import Extent
from dimgx.image import Image, Layer, UnreadableBlob
from dimgx.imagename import ImageName
from dimgx.images.origin import LIMIT, NoOrigin, parse_origin
from dimgx.images.outdated import Made
from dimgx.images.resultnames import ResultName, own_names
from dimgx.images.wanted import origin_of_kept
from dimgx.jsondoc import Fields, parse_json
from dimgx.layers.tarfields import BLOCK, check_sum, cut, parse_number, parse_records
from dimgx.layers.tarwrite import END, GLOBAL_NAME
from dimgx.oci import CONFIG_LIMIT
from dimgx.reference import Reference
from dimgx.sources.files import Files
from dimgx.sources.formats import read_images
from dimgx.sources.opening import open_files
from dimgx.spool import SpoolSpace
from dimgx.targets.forms import RECORD_FILE, RECORD_NOTE
from dimgx.targets.ociform import INDEX_TYPE, make_index
from dimgx.targets.packedend import has_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.codec import Compression

_NO_RECORD = "no record of what it was made from: --update writes one"
_PIECE = 64 << 10
# The members that archives of images begin with: what does not is not decoded in search of them.
_IMAGE_MEMBER = re.compile(
    rb"(?:\./)*(?:blobs/|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}|\Z)"
)


def read_state(path: str, *, tmpdirs: Sequence[str] = ()) -> list[Made] | None:
    """Give what lies at the target `path`; None where nothing does, or an empty directory.

    Raises: NoOrigin where it is not ours; SourceError where it cannot be read, or is a device.
    """
    try:
        status = os.stat(path)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory and not os.listdir(path):
            return None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise SourceError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc
    if is_directory:
        return _read_images(path, None, tmpdirs)
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path} is neither a file nor a directory, so it tells no origin")
    try:
        with open(path, "rb") as file:
            extent = Extent(file.fileno(), 0, status.st_size)
            compression = sniff(extent.read(0, HEAD))
            made = _read_tar(extent, compression)
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror or exc}") from exc
    except ImageError as exc:
        raise NoOrigin(f"{path} has {_NO_RECORD}") from exc
    return [made] if made is not None else _read_images(path, compression or "none", tmpdirs)


def _read_tar(extent: Extent, compression: Compression | None) -> Made | None:
    """Give what a tar with a record in its head was made from; None for what may be an image."""
    pieces = (extent.read(at, _PIECE) for at in range(0, extent.size, _PIECE))
    head = b""
    # In steps so small that a record is read of a tar which is cut not far behind it.
    room = memoryview(bytearray(BLOCK))
    for piece in iter_decoded(pieces, compression, lambda: room):
        head += piece
        if len(head) >= _extended_end(head):
            break
    if not _is_global(head):
        if compression is not None and not _IMAGE_MEMBER.match(cut(head[:100])):
            raise NoOrigin("there is no record of dimgx")
        return None
    payload = head[BLOCK : _extended_end(head)]
    origin = parse_origin(dict(parse_records(payload, 0)).get(b"comment"))
    problem = None
    if not (_has_tar_end(extent) if compression is None else has_end(extent, compression)):
        problem = "damaged: the tar ends wrongly"
    return Made((), origin, packing=compression or "none", problem=problem)


def _is_global(head: bytes) -> bool:
    is_named = head[156:157] == b"g" and cut(head[:100]) == GLOBAL_NAME
    return is_named and len(head) >= BLOCK and check_sum(head[:BLOCK], 0)


def _extended_end(head: bytes) -> int:
    """Give where the global header that `head` begins with ends, payload and all; else a block."""
    if not _is_global(head):
        return BLOCK
    size = parse_number(head[124:136], "the size", 0)
    if not 0 <= size <= LIMIT + BLOCK:
        raise NoOrigin("there is no record of dimgx")
    return BLOCK + size


def _has_tar_end(extent: Extent) -> bool:
    return not extent.size % BLOCK and extent.read(extent.size - len(END), len(END)) == END


def _read_images(path: str, packing: str | None, tmpdirs: Sequence[str]) -> list[Made]:
    with ExitStack() as resources:
        space = resources.enter_context(SpoolSpace(None, tuple(tmpdirs)))
        try:
            reference = Reference(path, "path", path)
            files = open_files(reference, None, space, resources, verify=True)
            form = _form_of(files, path)
            images = read_images(files, reference)
            notes = _notes(files, form)
            beside = _beside(files, images) if form.startswith("oci") else None
            made = [_made(image, form, packing, notes)._replace(beside=beside) for image in images]
            if files.is_cut:
                return [one._replace(problem="damaged: the archive ends early") for one in made]
            return made
        except OSError as exc:
            raise SourceError(f"{path}: {exc.strerror or exc}") from exc
        except ImageError as exc:
            raise NoOrigin(f"{path} has {_NO_RECORD}") from exc


def _form_of(files: Files, path: str) -> str:
    is_docker = files.find("manifest.json") is not None
    if os.path.isdir(path):
        return "docker-dir" if is_docker else "oci-dir"
    return "docker-archive" if is_docker else "oci-archive"


def _notes(files: Files, form: str) -> dict[str, str]:
    """Give the records of images that kept their configs, by the digests of what lists them."""
    if form == "docker-dir":
        record = files.read(RECORD_FILE, LIMIT)
        return {"": record.decode("utf-8", "replace").strip()} if record else {}
    if form == "docker-archive":
        entries = Fields({"images": _read_json(files, "manifest.json")}, "it").objects("images")
        found = {_config_digest(entry): entry.text(RECORD_NOTE) for entry in entries}
    else:
        found = {
            entry.text("digest") or "": entry.text_mapping("annotations").get(RECORD_NOTE)
            for entry in _entries(files)
        }
    return {digest: record for digest, record in found.items() if record}


def _beside(files: Files, images: Iterable[Image]) -> str | None:
    """Give the digest of what a layout lists beside its images, such as what signs them."""
    own = {str(image.digest) for image in images}
    listed = (entry.text("digest") or "-" for entry in _entries(files))
    return next((digest for digest in listed if digest not in own), None)


def _entries(files: Files) -> Iterator[Fields]:
    """Yield what a layout lists, and in the place of an index as dimgx makes it what that lists.

    Any other index is of others, and says more than which images it is of.
    """
    for entry in Fields(_read_json(files, "index.json"), "index.json").objects("manifests"):
        inner = _read_index(files, entry) if entry.text("mediaType") == INDEX_TYPE else None
        if inner is None:
            yield entry
        else:
            yield from inner.objects("manifests")


def _read_index(files: Files, entry: Fields) -> Fields | None:
    """Give the index that an entry is, if it is stored and has nothing but what dimgx writes."""
    algorithm, _, digits = (entry.text("digest") or "").partition(":")
    name = f"blobs/{algorithm}/{digits}"
    if files.find(name) is None:
        return None
    index = _read_json(files, name)
    is_ours = isinstance(index, dict) and set(index) == set(make_index([]))
    return Fields(index, name) if is_ours else None


def _read_json(files: Files, name: str) -> object:
    return parse_json(files.read(name, CONFIG_LIMIT) or b"", name, CONFIG_LIMIT)


def _config_digest(entry: Fields) -> str:
    path = (entry.text("Config") or "").rpartition("/")[2]
    return f"sha256:{path.removesuffix('.json')}"


def _made(image: Image, form: str, packing: str | None, notes: Mapping[str, str]) -> Made:
    # Only the last step: what was built on one of ours is not ours.
    comment = image.history[-1].comment if image.history else None
    key = {"docker-dir": "", "docker-archive": image.id}.get(form, str(image.digest))
    note = notes.get(key)
    is_ours = True
    try:
        origin = parse_origin(comment if note is None else note)
    except NoOrigin:
        origin, is_ours = origin_of_kept(image), False
    if origin.is_kept and origin.version and image.platform is not None:
        # One manifest that is listed for several platforms has one record for all of them.
        origin = origin._replace(platform=str(image.platform))
    compressions = list(map(_compression_of, image.layers))
    return Made(
        names=shown_names(own_names(image), form),
        origin=origin,
        form=form,
        packing=packing,
        compression=compressions[-1] if compressions else None,
        is_mixed=len(set(compressions)) > 1,
        is_ours=is_ours,
        problem=next(_problems(image), None),
        kept=None if origin.is_kept else origin_of_kept(image),
    )


def shown_names(names: Iterable[ResultName], form: str) -> tuple[str, ...]:
    """Give the names of an image as people write them, as far as the form holds them."""
    if form == "docker-dir":
        return ()
    return tuple(
        name.familiar if isinstance(name, ImageName) else str(name)
        for name in names
        if isinstance(name, ImageName) or form != "docker-archive"
    )


def _compression_of(layer: Layer) -> str | None:
    blob = layer.blob
    return (sniff(blob.read(0, HEAD)) or "none") if isinstance(blob, Extent) else None


def _problems(image: Image) -> Iterator[str]:
    for number, layer in enumerate(image.layers, 1):
        if isinstance(layer.blob, UnreadableBlob):
            yield f"damaged: its layer {number} is missing"
        elif layer.size is not None and layer.blob.size not in (None, layer.size):
            yield f"damaged: its layer {number} has {layer.blob.size} bytes, not {layer.size}"


def origins_text(found: Sequence[Made], path: str) -> str:
    """Give the records of the target `path` as people and programs read them, a line of JSON for
    each image.

    Beside what is recorded they have `form`, `compression`, `layer_compression` and `names`, as far
    as the target has these.

    Raises: NoOrigin where an image has none.
    """
    import json

    lines = []
    for made in found:
        if not made.is_ours:
            what = f"image {made.names[0]}" if made.names else "an image"
            raise NoOrigin(f"{path}: {what} in it has {_NO_RECORD}")
        record = made.origin.fields() | {"form": made.form}
        for key, value in (("compression", made.packing), ("layer_compression", made.compression)):
            if value is not None:
                record[key] = value
        if made.names:
            record["names"] = list(made.names)
        lines.append(json.dumps(record, separators=(",", ":")) + "\n")
    return "".join(lines)
