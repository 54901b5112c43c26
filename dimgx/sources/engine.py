"""Images that an engine holds: listed from what it tells, fetched only when layers are read.

1. Names and IDs are the engine's to resolve; what it does not know is explained (`absence`).
2. Rows come from its history; a step that is an image of its own has that image's ID and tags.
3. Layers wait. The first that is read has the engine save the lowest image of its own that holds
   all that are wanted, once, into the spool; from then on it is an archive like any other.
4. Where the engine's own files can be read, they are; then nothing is saved. Root may read any;
   for others, whose rootless engines keep nearly all files as theirs, each is looked at before
   (`unshared`).
5. What was saved must have the layers that were told, else the image has changed meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import zip_longest
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from dimgx import system
from dimgx.errors import ImageError, SourceError, TemporaryError
from dimgx.image import Image, Layer, Tick
from dimgx.platforms import Platform, host_platform
from dimgx.reference import Reference
from dimgx.sources.absence import explain_absence
from dimgx.sources.connection import Refused, RefusedForm
from dimgx.sources.described import Described, Engine
from dimgx.sources.endpoint import EngineOptions
from dimgx.sources.formats import read_image
from dimgx.sources.opening import Opening, open_stream

if TYPE_CHECKING:
    from dimgx.spool import SpoolSpace

_MAY_HEAL = ("connection refused", "connection reset", "timeout", "toomanyrequests")
"""What engines say of a registry that may answer later."""


def open_engine_image(
    engine: Engine,
    reference: Reference,
    *,
    platform: Platform | None,
    options: EngineOptions,
    spool: SpoolSpace,
    verify: bool,
) -> Image:
    """Open the image that `reference` names at `engine`, which is closed with it.

    Raises: SourceError where there is no such image; ImageError where it is not of `platform`;
        TemporaryError where the engine does not do its part.
    """
    with ExitStack() as resources:
        resources.callback(engine.close)
        described = _describe(engine, reference, platform, options)
        fits, stored = _fits(described, platform), None
        if options.is_direct and fits:
            stored = engine.open_stored(described, resources, verify=verify)
        saved = _Saved(engine, described, spool, verify, stored)
        if not fits:
            if described.may_hold_more:
                # The engine cannot tell of other platforms than its own, but saves them too.
                image = saved.save(described.id, platform)
                image.reference = reference.text
                image.resources.push(resources.pop_all())
                return image
            there = ", ".join(map(str, described.platforms or (described.platform,)))
            raise ImageError(
                f"{reference.text!r:.300} is for {there}, not for {platform}: with"
                f" --pull always {engine.where} fetches the other, docker:// needs no engine"
            )
        if not described.is_certain:
            if options.are_rows_wanted:
                described = _with_layers_of(described, saved)
            else:
                described = described._replace(steps=())
        image = Image(
            reference=reference.text,
            layers=tuple(
                Layer(_Pending(saved, index), diff_id=diff_id, length=length)
                for index, (diff_id, length) in enumerate(
                    zip_longest(described.diff_ids, described.lengths)
                )
            ),
            settings=described.settings,
            id=described.id,
            is_id_of_config=described.is_id_of_config,
            tags=described.tags,
            digest=described.digest,
            platform=described.platform,
            history=described.steps,
            size_kind=engine.size_kind,
            warnings=tuple(_platform_warnings(reference, described.platform, platform)),
        )
        if stored is not None and system.is_root():
            image.layers = tuple(
                here._replace(length=layer.length)
                for here, layer in zip(stored.layers, image.layers, strict=True)
            )
            image.store, image.digest = stored.reference, image.digest or stored.digest
        else:
            image.fetch = saved.fetch
        if stored is not None:
            image.watches = stored.watches
        image.fetch_whole = saved.whole
        image.resources.push(resources.pop_all())
        return image


def list_engine_platforms(
    engine: Engine, reference: Reference, options: EngineOptions
) -> list[Platform]:
    """Give the platforms of an image that `engine` has or shows, and close it.

    Raises: as `open_engine_image`.
    """
    with closing(engine):
        described = _describe(engine, reference, None, options)
    found = described.platforms or (described.platform,)
    return [platform for platform in found if platform is not None]


def _describe(
    engine: Engine, reference: Reference, platform: Platform | None, options: EngineOptions
) -> Described:
    name = reference.name or ""
    if options.pull == "always":
        _pull(engine, name, platform, options)
    try:
        described = engine.describe(name, platform)
        if options.pull != "missing" or _fits(described, platform) or described.may_hold_more:
            return described
    except Refused as exc:
        if not exc.is_unknown:
            raise translated(exc, engine.where) from exc
        if options.pull != "missing":
            raise explain_absence(engine, reference) from exc
    _pull(engine, name, platform, options)
    try:
        return engine.describe(name, platform)
    except Refused as exc:
        raise translated(exc, engine.where) from exc


def _pull(engine: Engine, name: str, platform: Platform | None, options: EngineOptions) -> None:
    """Have the image fetched, and pass on how far that is: the sum over its layers."""
    parts: dict[str, tuple[int, int]] = {}
    try:
        for answer in engine.iter_pulled(name, platform):
            problem = answer.text("error")
            if problem:
                raise _not_pulled(engine, name, Refused(0, problem))
            # Unpacking is reported in the same way, and is not to be counted again.
            if options.tick is None or answer.text("status") != "Downloading":
                continue
            detail, part = answer.fields("progressDetail"), answer.text("id")
            total = detail.integer("total") if detail else None
            if detail and part is not None and total:
                parts[part] = detail.integer("current") or 0, total
                done, totals = zip(*parts.values(), strict=True)
                options.tick(sum(done), sum(totals))
    except Refused as exc:
        raise _not_pulled(engine, name, exc) from exc


def _not_pulled(engine: Engine, name: str, refused: Refused) -> SourceError | TemporaryError:
    problem = f"{refused}"
    # Podman, and Docker once it has begun to answer, have one status for all that goes wrong.
    may_heal = (refused.status >= 500 and "manifest unknown" not in problem) or any(
        words in problem.lower() for words in _MAY_HEAL
    )
    told = f"{engine.where} cannot pull {name:.300}: {problem:.500}"
    return TemporaryError(told) if may_heal else SourceError(told)


def translated(refused: Refused, where: str) -> SourceError | TemporaryError:
    """Give the error that an engine's refusal comes to."""
    if refused.status >= 500:
        return TemporaryError(f"{where} failed: {refused}")
    return SourceError(f"{where} refused: {refused}")


def _fits(described: Described, platform: Platform | None) -> bool:
    if platform is None or described.platform is None:
        return True
    return platform.rank(described.platform) is not None


def _platform_warnings(
    reference: Reference, found: Platform | None, wanted: Platform | None
) -> list[str]:
    if found is not None and found.os == "windows":
        raise ImageError(
            f"{reference.text!r:.300} is a Windows image, which has no Linux root file system"
        )
    default = host_platform()
    if wanted is None and found is not None and default.rank(found) is None:
        return [f"the image is for {found}, not for {default}"]
    return []


def _with_layers_of(described: Described, saved: _Saved) -> Described:
    """Learn from the image's config which steps brought a layer."""
    config = saved.archive(len(described.diff_ids), None).config
    told = config.history if config else ()
    if len(told) != len(described.steps):
        return described
    pairs = zip(described.steps, told, strict=True)
    steps = tuple(step._replace(empty=own.empty) for step, own in pairs)
    return described._replace(steps=steps)


class _Pending(NamedTuple):
    """The blob of a layer that the engine has not been asked for yet."""

    saved: _Saved
    position: int
    size: int | None = None

    def iter_chunks(self) -> Iterator[bytes | memoryview]:
        return self.saved.archive(self.position + 1, None).layers[self.position].blob.iter_chunks()


class _Saved:
    """What the engine saves of an image, once it is needed; nothing where it lies at hand."""

    def __init__(
        self,
        engine: Engine,
        described: Described,
        spool: SpoolSpace,
        verify: bool,
        stored: Image | None,
    ) -> None:
        self._engine, self._described = engine, described
        self._spool, self._verify = spool, verify
        self._lock = threading.Lock()
        self._stored = stored
        self._archive: Image | None = None
        self._is_whole = False

    def fetch(self, layers: Sequence[Layer], tick: Tick | None) -> tuple[Layer, ...]:
        """Give `layers` with their blobs at hand; `tick` is told of bytes done and in all."""
        waiting = [layer.blob.position for layer in layers if isinstance(layer.blob, _Pending)]
        if not waiting:
            return tuple(layers)
        here = self.archive(max(waiting) + 1, tick).layers
        return tuple(
            here[layer.blob.position] if isinstance(layer.blob, _Pending) else layer
            for layer in layers
        )

    def archive(self, count: int, tick: Tick | None) -> Image:
        """Give the archive of an image that has the lowest `count` layers and no more than needed.

        Raises: TemporaryError, SourceError, ImageError.
        """
        described = self._described
        with self._lock:
            self._look_into_store()
            if self._archive is None or len(self._archive.layers) < count:
                # Of several with equally many layers any will do: none has more than is needed.
                size, id = min(
                    (found for found in described.ancestors if found[0] >= count),
                    key=itemgetter(0),
                    default=(len(described.diff_ids), described.id),
                )
                self._archive = self._save_checked(size, id, tick)
                self._is_whole = id == described.id
            return self._archive

    def whole(self, tick: Tick | None) -> Image:
        """Give the archive of the image itself, which has its config."""
        described = self._described
        with self._lock:
            self._look_into_store()
            if self._archive is None or not self._is_whole:
                size = len(described.diff_ids)
                self._archive = self._save_checked(size, described.id, tick)
                self._is_whole = True
            return self._archive

    def _look_into_store(self) -> None:
        """Take what lies in the engine's own files, if this user may read all of it."""
        stored, self._stored = self._stored, None
        if stored is None:
            return
        if not system.is_root():
            from dimgx.sources.unshared import open_closed

            layers = open_closed(stored.layers, self._engine.unshare())
            if layers is None:
                return
            stored.layers = layers
        self._archive, self._is_whole = stored, True

    def _save_checked(self, count: int, id: str, tick: Tick | None) -> Image:
        """Give the archive of the image `id`, which is to have the lowest `count` layers."""
        found = self.save(id, self._described.platform, tick, self._expected(count))
        told = tuple(layer.diff_id for layer in found.layers)
        if told != self._described.diff_ids[:count]:
            raise ImageError(
                f"{self._engine.where} saved other layers than it lists for {id:.20}:"
                " has the image changed? run this again"
            )
        return found

    def save(
        self,
        id: str,
        platform: Platform | None,
        tick: Tick | None = None,
        total: int | None = None,
    ) -> Image:
        """Give an image as its archive has it; `total` is about how many bytes that will have."""
        where = self._engine.where
        opening = Opening(f"what {where} saved", self._spool, tick, self._verify)
        while True:
            try:
                files = open_stream(self._engine.iter_saved(id, platform), opening, total)
                break
            except RefusedForm:
                continue
            except Refused as exc:
                raise translated(exc, where) from exc
        # Nothing else is in it, and an index that has the ID may have been left out.
        return read_image(files, Reference(id, "docker-archive", None, None), platform)

    def _expected(self, count: int) -> int | None:
        """Give about how many bytes the lowest `count` layers come to."""
        total, layers = 0, 0
        for step in self._described.steps:
            layers += not step.empty
            if layers > count:
                break
            total += step.size or 0
        return total or None
