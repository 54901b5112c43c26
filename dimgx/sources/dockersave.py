"""What `docker save` writes since 1.10: `manifest.json` lists configs and layers by their paths.

The paths are anything: `<id>/layer.tar`, `<digest>.tar`, `blobs/sha256/<hex>`. As nothing guards
them, the diff_ids of the config guard the layers. Where the archive is an OCI layout too, and has a
manifest with that config and these blobs, that is the image's, and its digests guard them as well,
which for compressed layers is quicker. The `<id>/json` beside the layers are for engines before
1.10 and count for nothing.

Spec: docker-image-spec v1.2 and v1.3; moby image/tarexport.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

from dimgx.digest import Digest
from dimgx.errors import ImageError
from dimgx.image import Image, Layer, UnreadableBlob
from dimgx.jsondoc import Fields
from dimgx.oci import CONFIG_LIMIT, Config, HistoryStep, is_foreign_type, parse_config
from dimgx.sources.choice import Candidate, Variant, alone, join_platforms
from dimgx.sources.files import Files, check_digest

_BLOB_PATH = re.compile(r"[./]*blobs/([a-z0-9]+)/([0-9a-f]+)")
_NAMED_CONFIG = re.compile(r"(?:.*[/:])?([0-9a-f]{64})(?:\.json)?")


class _Entry(NamedTuple):
    """One entry of manifest.json, or several that mean the same image."""

    positions: tuple[int, ...]
    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]
    parent: str | None
    media_types: dict[str, str | None]
    """Media types of layers by their diff_ids."""


def list_saved(files: Files, document: list[object]) -> list[Candidate]:
    """Give the images that manifest.json lists, which `document` is; the same image comes once.

    Raises: ImageError where an entry is malformed.
    """
    what = f"{files.where}: manifest.json"
    groups: dict[tuple[str, tuple[str, ...]], list[_Entry]] = {}
    for position, item in enumerate(document):
        entry = _parse_entry(Fields(item, f"{what}: [{position}]"), position)
        groups.setdefault((entry.config, entry.layers), []).append(entry)
    entries = [_joined(group) for group in groups.values()]
    reader = _Reader(files, entries)
    candidates = [reader.candidate(entry) for entry in entries]
    nameless = [candidate for candidate in candidates if not candidate.names]
    return nameless + join_platforms(c for c in candidates if c.names)


def _parse_entry(fields: Fields, position: int) -> _Entry:
    config = fields.text("Config")
    if not config:
        raise ImageError(f"{fields.what} names no Config")
    media_types = {
        diff_id: Fields(source, f"{fields.what}: LayerSources").text("mediaType") or None
        for diff_id, source in fields.mapping("LayerSources").items()
    }
    names = tuple(filter(None, fields.texts("RepoTags")))
    layers = tuple(fields.texts("Layers"))
    return _Entry((position,), config, layers, names, fields.text("Parent"), media_types)


def _joined(same: Sequence[_Entry]) -> _Entry:
    """Give what several entries of the same image say of it."""
    return same[0]._replace(
        positions=tuple(chain.from_iterable(entry.positions for entry in same)),
        names=tuple(dict.fromkeys(chain.from_iterable(entry.names for entry in same))),
    )


class _Reader:
    """Reads configs once, and opens entries."""

    def __init__(self, files: Files, entries: Sequence[_Entry]) -> None:
        self._files = files
        self._entries = entries
        self._configs: dict[str, Config] = {}

    def candidate(self, entry: _Entry) -> Candidate:
        """Give the image of an entry; one whose config is bad fails when it is opened."""
        try:
            config = self._config(entry)
        except ImageError as exc:
            variant = Variant(None, (), alone(exc))
        else:
            opener = partial(self._open, entry, config)
            variant = Variant(config.platform, (str(config.digest),), opener)
        return Candidate(entry.positions, entry.names, (variant,))

    def _config(self, entry: _Entry) -> Config:
        path = entry.config
        if path not in self._configs:
            what = f"{self._files.where}: the config {path!r:.200}"
            data = self._files.read(path, CONFIG_LIMIT, what)
            if data is None:
                raise ImageError(f"{what} is missing")
            digest = _digest_of_path(path)
            if self._files.verify and digest:
                check_digest(data, digest, what)
            self._configs[path] = parse_config(data, what)
        return self._configs[path]

    def _open(self, entry: _Entry, config: Config) -> Image:
        listed = self._find_in_layout(entry, config)
        named = _NAMED_CONFIG.fullmatch(entry.config)
        changed = self._files.verify and named is not None and named[1] != config.digest.hex
        return Image(
            reference=self._files.where,
            layers=listed.layers if listed else self._layers(entry, config),
            config=config,
            id=str(config.digest),
            digest=listed.digest if listed else None,
            manifest=listed.manifest if listed else None,
            platform=config.platform,
            history=self._history(entry, config),
            # No engine minds, and people do edit configs in place.
            warnings=("the config was edited: its digest is not its name's",) if changed else (),
        )

    def _layers(self, entry: _Entry, config: Config) -> tuple[Layer, ...]:
        paths, diff_ids = entry.layers, config.diff_ids
        digests = [_digest_of_path(path) for path in paths]
        what = f"{self._files.where}: the config {entry.config!r:.200}"
        if diff_ids is None:
            if not all(digests):
                raise ImageError(f"{what} has no rootfs, so nothing guards the layers")
            return tuple(
                self._layer(path, digest, None, entry.media_types)
                for path, digest in zip(paths, digests, strict=True)
            )
        if len(diff_ids) != len(paths):
            raise ImageError(
                f"{what} has {len(diff_ids)} layers, but manifest.json lists {len(paths)}"
            )
        return tuple(
            self._layer(path, diff_id if digest == diff_id else None, diff_id, entry.media_types)
            for path, digest, diff_id in zip(paths, digests, diff_ids, strict=True)
        )

    def _find_in_layout(self, entry: _Entry, config: Config) -> Image | None:
        """Give the image that a manifest of the OCI layout beside makes of the same blobs."""
        digests = [_digest_of_path(path) for path in entry.layers]
        if config.diff_ids is None or not all(digests):
            return None
        for image in self._in_layout.get(str(config.digest), ()):
            if [layer.digest for layer in image.layers] == digests:
                return image
        return None

    @cached_property
    def _in_layout(self) -> dict[str, list[Image]]:
        """The images of an OCI layout beside, by their IDs."""
        from dimgx.sources.layout import list_layout

        found: dict[str, list[Image]] = {}
        try:
            candidates = list_layout(self._files)
        except ImageError:
            return found
        for variant in chain.from_iterable(one.variants for one in candidates):
            with suppress(ImageError):
                image = variant.open()
                found.setdefault(image.id, []).append(image)
        return found

    def _layer(
        self,
        path: str,
        digest: Digest | None,
        diff_id: Digest | None,
        types: dict[str, str | None],
    ) -> Layer:
        media_type = types.get(str(diff_id))
        extent = self._files.find(path)
        if extent is not None:
            return Layer(extent, digest, None, diff_id, media_type)
        reason = "is missing"
        if is_foreign_type(media_type):
            reason = "is not stored with the image, as its licence has it (a foreign layer)"
        problem = f"{self._files.where}: the layer {path!r:.200} {reason}"
        return Layer(UnreadableBlob(problem), digest, None, diff_id, media_type)

    def _history(self, entry: _Entry, config: Config) -> tuple[HistoryStep, ...]:
        """Give the history; ancestors that are in the archive give their steps IDs and tags."""
        steps = list(config.history)
        by_id = {}
        for other in self._entries if entry.parent else ():
            with suppress(ImageError):
                known = self._config(other)
                by_id[str(known.digest)] = other, known.history
        count, parent = len(steps), entry.parent
        while parent in by_id:
            ancestor, older = by_id[parent]
            # Each has fewer steps than the one above, so a circle of parents ends here too.
            if not 0 < len(older) < count or list(older) != list(config.history[: len(older)]):
                break
            count = len(older)
            steps[count - 1] = steps[count - 1]._replace(id=parent, tags=ancestor.names)
            parent = ancestor.parent
        return tuple(steps)


def _digest_of_path(path: str) -> Digest | None:
    """Give the digest in a content-addressed path.

    Raises: ImageError where it is malformed.
    """
    matched = _BLOB_PATH.fullmatch(path)
    return Digest.parse(f"{matched[1]}:{matched[2]}") if matched else None
