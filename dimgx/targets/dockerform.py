"""Docker's forms: the archive that `docker load` takes, and skopeo's directory `dir:`.

1. The archive is that of `docker save` before 25: `manifest.json` lists configs and layers. For
   Docker before 1.10 each layer is also an image of its own, `<id>/{VERSION,json,layer.tar}`, and
   `repositories` names the topmost.
2. An image that comes again under another name is listed once, with both. A layer that comes again
   is a symlink to its first place, which manifest.json names.
3. The IDs of those older images are made of what is below them, and the topmost one's of its
   config too, so that equal IDs mean equal images.

Spec: docker-image-spec v1 and v1.2; c/image's directory transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from dimgx.digest import Digest
from dimgx.images.imageconfig import dump
from dimgx.images.resultnames import familiar_names
from dimgx.jsondoc import parse_json
from dimgx.oci import CONFIG_LIMIT
from dimgx.targets.forms import RECORD_FILE, RECORD_NOTE, Blobs, MadeImage, make_manifest

if TYPE_CHECKING:
    from dimgx.codec import Compression
    from dimgx.images.layerparts import Part, StoredLayer
    from dimgx.targets.store import Slot, Store

_NOT_OLD = frozenset(("rootfs", "history", "id", "parent", "layer_id"))
# What Docker itself writes for what it does not know.
_LONG_AGO = "1970-01-01T00:00:00Z"


class DockerArchiveForm:
    """A docker-archive that is being written."""

    # What else `docker load` takes, older tools that read `layer.tar` do not.
    kept: ClassVar[frozenset[Compression | None]] = frozenset((None,))
    has_manifest: ClassVar[bool] = False
    has_names: ClassVar[bool] = True
    has_engine_names: ClassVar[bool] = True
    has_indexes: ClassVar[bool] = False

    def __init__(self, store: Store) -> None:
        self._store = store
        # By their diff_ids, and so are the next two.
        self._layers: dict[Digest, StoredLayer] = {}
        self._slots: dict[Digest, Slot] = {}
        self._places: dict[Digest, str] = {}
        self._ids: set[str] = set()
        self._entries: dict[str, tuple[list[str], list[str]]] = {}
        self._repositories: dict[str, dict[str, str]] = {}
        self._records: dict[str, str] = {}

    def add_layer(self, part: Part) -> StoredLayer:
        """Store a layer; its name follows when an image has it."""
        slot, layer = self._store.put_part(part)
        # One that is stored in two ways, by two sources, is one all the same.
        first = self._layers.setdefault(layer.diff_id, layer)
        if first is not layer:
            self._store.drop(slot)
        else:
            self._slots[layer.diff_id] = slot
        return first

    def add_image(self, image: MadeImage) -> None:
        """Store an image's config and its layers' older form, and list it."""
        config_name = f"{image.id.hex}.json"
        names = familiar_names(image.names)
        if image.record is not None:
            self._records[config_name] = image.record
        known = self._entries.get(config_name)
        if known is None:
            self._store.put(config_name, image.config)
            known = self._entries[config_name] = (names, [])
        else:
            known[0].extend(name for name in names if name not in known[0])
        top = self._add_chain(image)
        known[1][:] = [self._places[layer.diff_id] for layer in image.layers]
        for name in names if top else ():
            repository, _, tag = name.rpartition(":")
            self._repositories.setdefault(repository, {})[tag] = top

    def _add_chain(self, image: MadeImage) -> str:
        """Store the layers as images of their own, and give the topmost one's ID."""
        parent = ""
        for position, layer in enumerate(image.layers):
            is_top = position == len(image.layers) - 1
            told: dict[str, object] = {"created": _LONG_AGO, "os": "linux"}
            if is_top:
                config = parse_json(image.config, "the config", CONFIG_LIMIT)
                assert isinstance(config, dict)
                told = {k: v for k, v in config.items() if k.lower() not in _NOT_OLD}
            # Without the layer in it, two of them with one parent were one.
            told |= {"parent": parent} if parent else {}
            id = Digest.of(dump(told | {"layer_id": str(layer.diff_id)})).hex
            self._add_old_image(id, dump({"id": id} | told), layer)
            parent = id
        return parent

    def _add_old_image(self, id: str, described: bytes, layer: StoredLayer) -> None:
        if id in self._ids:
            return
        self._ids.add(id)
        place = f"{id}/layer.tar"
        first = self._places.get(layer.diff_id)
        if first is None:
            self._places[layer.diff_id] = place
            self._store.name(self._slots.pop(layer.diff_id), place)
        else:
            self._store.link(place, f"../{first}")
        self._store.put(f"{id}/VERSION", b"1.0")
        self._store.put(f"{id}/json", described)

    def finish(self) -> dict[str, bytes]:
        """Give what lists the images."""
        listed = [
            {"Config": config, "RepoTags": names or None, "Layers": layers}
            | ({RECORD_NOTE: self._records[config]} if config in self._records else {})
            for config, (names, layers) in self._entries.items()
        ]
        last = {"manifest.json": dump(listed)}
        if self._repositories:
            last["repositories"] = dump(self._repositories)
        return last


class DockerDirectoryForm:
    """A `dir:` with a manifest of Docker's, which is being written. It holds one image."""

    # Docker's manifest has no zstd.
    kept: ClassVar[frozenset[Compression | None]] = frozenset((None, "gzip"))
    has_manifest: ClassVar[bool] = True
    has_names: ClassVar[bool] = False
    has_engine_names: ClassVar[bool] = False
    has_indexes: ClassVar[bool] = False

    def __init__(self, store: Store) -> None:
        store.put("version", b"Directory Transport Version: 1.1\n")
        self._blobs = Blobs(store, "")
        self._last: dict[str, bytes] = {}

    def add_layer(self, part: Part) -> StoredLayer:
        """Store a layer."""
        return self._blobs.add_layer(part)

    def add_image(self, image: MadeImage) -> Digest:
        """Store the config, and remember the manifest."""
        manifest, config_digest = make_manifest(image, is_oci=False)
        self._blobs.put(config_digest, image.config)
        self._last["manifest.json"] = manifest
        if image.record is not None:
            self._last[RECORD_FILE] = image.record.encode() + b"\n"
        return Digest.of(manifest)

    def finish(self) -> dict[str, bytes]:
        """Give the manifest, and the record."""
        return self._last
