"""Images of a store of containers/storage, without a program that would have to be asked.

1. `[DRIVER@ROOT+RUNROOT:OPTIONS]` names a store as skopeo does it, on another disk for instance. Of
   the options, stores that lie beside it count.
2. Else it is the one that storage.conf names, or the usual one: CRI-O's on a node of Kubernetes,
   Podman's where Podman itself is not at hand.
3. Names are those that are written there, or as Docker completes them, or those of images that were
   built here.

Spec: containers-storage.conf(5); containers-transports(5), containers-storage.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dimgx import system
from dimgx.errors import ImageError, SourceError, UsageError
from dimgx.image import Image, Layer, Tick
from dimgx.imagename import registry_hint
from dimgx.jsondoc import Fields
from dimgx.sources.absence import similar_names
from dimgx.sources.choice import (
    Candidate,
    NoSuchImage,
    Variant,
    choose_candidate,
    choose_variant,
    open_chosen,
)
from dimgx.sources.containersstore import DRIVERS, ContainersStore, Record
from dimgx.sources.tomldoc import TOML_LIMIT, parse_toml
from dimgx.sources.unshared import open_closed

if TYPE_CHECKING:
    from dimgx.platforms import Platform
    from dimgx.sources.endpoint import EngineOptions

_SPECIFIER = re.compile(
    r"(?:(?P<driver>[a-z0-9]+)@)?(?P<root>/[^+:]*)(?:\+[^:]*)?(?::(?P<more>.*))?"
)
_ADVICE = "the store is damaged, or somebody changed it meanwhile"
_MOST_SHOWN = 8
_BESIDE = ("imagestore", "additionalimagestore")
_SYSTEM_FILES = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")


def parse_store(text: str) -> ContainersStore:
    """Give the store that a specifier names: what stands in the brackets.

    Raises: UsageError where it is none; SourceError where no store is there.
    """
    found = _SPECIFIER.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r:.300} names no store: write [DRIVER@/ROOT] or [/ROOT]")
    options = (option.partition("=") for option in (found["more"] or "").split(","))
    beside = [value for key, _, value in options if key.rpartition(".")[2] in _BESIDE]
    return _open(found["root"], found["driver"], beside)


def usual_store(options: EngineOptions) -> ContainersStore | None:
    """Give the store of this machine, or of this user; None where there is none.

    Raises: SourceError where storage.conf makes no sense, or names a driver that is not known.
    """
    own = _own_file(options)
    named = options.storage_conf  # one that is not there is an error, as for Podman
    files = (own, *_SYSTEM_FILES)
    file = named or next((path for path in files if path and os.path.exists(path)), None)
    try:
        storage = _read_conf(file) if file else None
        root = _root_of(storage, options, is_own=file == own)
        driver = storage.text("driver") if storage else None
        more = storage.fields("options") if storage else None
        beside = more.texts("additionalimagestores") if more else ()
    except ImageError as exc:
        raise SourceError(f"{exc}") from None
    return _open(root, driver, beside) if root and os.path.isdir(root) else None


def _own_file(options: EngineOptions) -> str | None:
    if options.storage_conf or system.is_root():
        return options.storage_conf
    home = options.config_home or (options.home and os.path.join(options.home, ".config"))
    return os.path.join(home, "containers/storage.conf") if home else None


def _root_of(storage: Fields | None, options: EngineOptions, *, is_own: bool) -> str | None:
    """Give where the store lies: what the system's file says is root's, but for one line."""
    if system.is_root():
        return (storage and storage.text("graphroot")) or "/var/lib/containers/storage"
    told = storage and storage.text("graphroot" if is_own else "rootless_storage_path")
    if told:
        known = {"HOME": options.home or "", "UID": str(os.geteuid()), "USER": options.user or ""}
        return re.sub(r"\$(\w+)", lambda match: known.get(match[1], match[0]), told)
    data = options.data_home or (options.home and os.path.join(options.home, ".local/share"))
    return os.path.join(data, "containers/storage") if data else None


def _read_conf(path: str) -> Fields | None:
    try:
        with open(path, "rb") as file:
            data = file.read(TOML_LIMIT + 1)
    except OSError as exc:
        raise SourceError(f"{path}: {exc.strerror}") from exc
    return parse_toml(data, path).fields("storage")


def _open(root: str, driver: str | None, beside: Sequence[str]) -> ContainersStore:
    wanted = ("overlay" if driver == "overlay2" else driver) or None
    try:
        names = os.listdir(root)
    except OSError as exc:
        raise SourceError(f"the store {root}: {exc.strerror}{_as_root(exc)}") from exc
    there = [one for one in DRIVERS if f"{one}-images" in names]
    chosen = next((one for one in there if wanted in (one, None)), None)
    if chosen is None:
        named = f"the driver {wanted}" if wanted else "a driver"
        raise SourceError(
            f"{root} has no images that {named} keeps; dimgx reads those of {' and '.join(DRIVERS)}"
        )
    return ContainersStore(Path(root), chosen, [Path(path) for path in beside], _ADVICE)


def find_image(store: ContainersStore, name: str | None, text: str, *, verify: bool) -> Candidate:
    """Give the one image of a store that `name` means, None the only one; `text` is the reference.

    Raises: SourceError where it cannot be read or is not there; ImageError where it is damaged, or
        several are meant.
    """
    where = f"the store {store.root}"
    try:
        records = store.images()
    except OSError as exc:
        raise SourceError(f"{where}: {exc.strerror}{_as_root(exc)}") from exc
    candidates = [_candidate(place, *item) for place, item in enumerate(records.items())]
    names = [one for candidate in candidates for one in candidate.names]
    if name is None and len(candidates) != 1:
        raise ImageError(
            f"{where} holds {len(candidates)} images: name one behind the bracket{_shown(names)}"
        )
    try:
        chosen = choose_candidate(candidates, name, where)
    except NoSuchImage as exc:
        try:
            # What was built here has no registry's name.
            chosen = choose_candidate(candidates, f"localhost/{name}", where)
        except NoSuchImage:
            raise _absence(where, name or "", names) from exc
    (variant,) = chosen.variants
    id = variant.ids[0].removeprefix("sha256:")
    try:
        image = store.open(id, verify=verify)
    except (OSError, LookupError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or f"{exc}"
        raise SourceError(
            f"{text!r:.300} cannot be read from {where}: {reason}{_as_root(exc)}"
        ) from exc
    image.store = f"{store.root}"
    if not system.is_root():
        image.fetch = _fetch
    return chosen._replace(variants=(Variant(image.platform, variant.ids, lambda: image),))


def open_image(
    store: ContainersStore, name: str | None, text: str, platform: Platform | None, *, verify: bool
) -> Image:
    """Give an image of a store, as `find_image` finds it, if it is for `platform`.

    Raises: as `find_image`; ImageError where it is for another one.
    """
    candidate = find_image(store, name, text, verify=verify)
    variant, odd = choose_variant(candidate, platform, text)
    image = open_chosen(candidate, variant, odd)
    image.reference = text
    return image


def _candidate(place: int, id: str, record: Record) -> Candidate:
    fields = record.fields
    digest = fields.text("digest")
    kept = fields.text_mapping("big-data-digests")
    digests = [digest] if digest else []
    digests += [found for key, found in kept.items() if key.startswith("manifest")]
    variant = Variant(None, (f"sha256:{id}",), ImageError("it is not open yet"))
    names = tuple(fields.texts("names"))
    return Candidate((place,), names, (variant,), tuple(dict.fromkeys(digests)))


def _absence(where: str, name: str, names: list[str]) -> SourceError:
    shown = similar_names(name, names) or _shown(names)
    hint = registry_hint(name)
    more = f"; its registry may: {hint}" if hint else ""
    return SourceError(f"{where} has no image {name!r:.300}{shown}{more}")


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f" (it has: {', '.join(names[:_MOST_SHOWN])}{more})" if names else ""


def _as_root(exc: BaseException) -> str:
    is_closed = isinstance(exc, PermissionError) and not system.is_root()
    return ": it is root's; run dimgx as root" if is_closed else ""


def _fetch(layers: Sequence[Layer], tick: Tick | None) -> tuple[Layer, ...]:
    """Give layers that this user may read, who is not root.

    Raises: SourceError where some may not be read.
    """
    program = shutil.which("podman") or shutil.which("buildah")
    opened = open_closed(layers, (program, "unshare") if program else ())
    if opened is None:
        raise SourceError(
            "the store has files that only root may read, or the root of the user's namespace: run"
            " dimgx as root, or behind `podman unshare` or `buildah unshare`"
        )
    return opened
