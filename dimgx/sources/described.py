"""What an engine is, whichever it is, and what it tells of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from dimgx.digest import Digest
    from dimgx.image import Image, SizeKind
    from dimgx.jsondoc import Fields
    from dimgx.oci import HistoryStep
    from dimgx.platforms import Platform
    from dimgx.settings import Settings


class Described(NamedTuple):
    """What an engine tells of an image."""

    id: str
    """`sha256:<hex>`."""
    tags: tuple[str, ...]
    platform: Platform | None
    diff_ids: tuple[Digest, ...]
    """Base to top."""
    steps: tuple[HistoryStep, ...]
    """Base to top."""
    is_certain: bool = True
    """It is known which steps brought a layer; else only the image's config tells."""
    ancestors: tuple[tuple[int, str], ...] = ()
    """Those that are images of their own: how many layers they have, and their IDs."""
    lengths: tuple[int | None, ...] = ()
    """Bytes of the layers' plain tars where they are known, of all layers or of none."""
    settings: Settings | None = None
    """How it is run."""
    is_id_of_config: bool = True
    """Else it is that of a manifest or an index."""
    platforms: tuple[Platform, ...] = ()
    """Those that are there, where the engine tells of them."""
    digest: Digest | None = None
    """Of the manifest, where the engine tells it."""
    driver: str | None = None
    """What keeps the layers' files, as the engine calls it."""
    directory: str | None = None
    """Where the files of the topmost layer lie, for an overlay to mount."""

    @property
    def may_hold_more(self) -> bool:
        """There may be platforms that the engine does not tell of."""
        return not self.is_id_of_config and not self.platforms


class Engine(Protocol):
    """What keeps images. Its methods raise Refused where it says no."""

    where: str
    """What people call it."""
    size_kind: SizeKind

    def describe(self, name: str, platform: Platform | None) -> Described:
        """Give what it tells of an image, for `platform` where it can choose."""

    def open_stored(
        self, described: Described, resources: ExitStack, *, verify: bool
    ) -> Image | None:
        """Give an image that it has described as it lies in its own files.

        None where they cannot be read here. What has to be open is so until `resources` is closed.
        """

    def unshare(self) -> tuple[str, ...]:
        """Give the command that runs another one where this user is root to its own files.

        Empty where there is none.
        """

    def iter_saved(self, id: str, platform: Platform | None) -> Iterator[bytes]:
        """Yield the archive of an image.

        Raises: RefusedForm, also after some pieces, where asking again gives another form of it.
        """

    def iter_pulled(self, name: str, platform: Platform | None) -> Iterator[Fields]:
        """Fetch an image from its registry, and yield how far it is."""

    def list_images(self) -> list[tuple[str, tuple[str, ...]]]:
        """Give the ID and the tags of every image."""

    def find_container(self, name: str) -> str | None:
        """Give the image of a container, None where there is no such container."""

    def close(self) -> None:
        """Let go of it."""
