"""Podman: through its service's own API, or through the program where there is no service.

Both tell the same: `inspect` has the config's history, so it is known which steps brought a layer,
and names the parent of an image that was built here. A size is that of the layer's plain tar.

Docker's API, which the service speaks as well, leaves some of that out and gives steps the IDs of
other images that share their layer.

Spec: Podman's libpod API; podman-image-inspect(1), podman-history(1), podman-save(1).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from dimgx.digest import Digest
from dimgx.errors import DimgxError, TemporaryError
from dimgx.image import Image, SizeKind
from dimgx.jsondoc import Fields, parse_json
from dimgx.oci import HistoryStep, parse_platform_fields
from dimgx.platforms import Platform
from dimgx.settings import parse_settings
from dimgx.sources.connection import Connection, Refused, RefusedForm, quoted
from dimgx.sources.daemon import clean_tags, full_id, layers_of, parse_images, rfc3339
from dimgx.sources.described import Described
from dimgx.sources.program import Program

_DOCUMENT_LIMIT = 64 << 20
_MOST_ANCESTORS = 1000
# Layers that were pushed with zstd, which Docker's manifests do not know.
_BAD_FORM = ("zstd", "manifest conversion")
_NOT_REACHED = ("unable to connect", "cannot connect", "failed to connect")
_UNKNOWN = ("not known", "no such", "unable to find", "not find")


class Podman:
    """Podman behind one of its doors."""

    size_kind: SizeKind = "tar"

    def __init__(self, door: ServiceDoor | ProgramDoor) -> None:
        self.door = door
        self.where = door.where
        self._form = "docker-archive"

    def describe(self, name: str, platform: Platform | None) -> Described:
        """Give what it tells of an image; there is one of each name, whatever its platform."""
        image = self._inspect(name)
        id = full_id(image.text("Id"), image.what)
        tags = clean_tags(image.texts("RepoTags"))
        diff_ids = layers_of(image)
        driver, directory = _place_of(image)
        sizes = self._sizes(id)
        steps = _steps_of(image)
        if len(sizes) == len(steps):
            steps = [step._replace(size=size) for step, size in zip(steps, sizes, strict=True)]
        layered = tuple(step.size for step in steps if not step.empty)
        ancestors = []
        for count, ancestor in self._ancestors(image, steps):
            own = full_id(ancestor.text("Id"), ancestor.what)
            steps[count - 1] = steps[count - 1]._replace(
                id=own, tags=clean_tags(ancestor.texts("RepoTags"))
            )
            ancestors.append((len(layers_of(ancestor)), own))
        if steps:
            steps[-1] = steps[-1]._replace(id=id, tags=tags)
        return Described(
            id=id,
            tags=tags,
            platform=parse_platform_fields(image),
            diff_ids=diff_ids,
            steps=tuple(steps),
            ancestors=tuple(ancestors),
            lengths=layered if len(layered) == len(diff_ids) else (),
            settings=parse_settings(image, is_health_known=not _is_oci(image)),
            driver=driver,
            directory=directory,
        )

    def _sizes(self, id: str) -> list[int | None]:
        """Give the sizes of the steps, base to top; none where Podman cannot tell."""
        try:
            told = Fields({"steps": self.door.history(id)}, f"{self.where}: the history")
        except Refused as exc:
            # A step without a time makes Podman's own code fail.
            if exc.status < 500:
                raise
            return []
        return [fields.integer("size") for fields in reversed(told.objects("steps"))]

    def open_stored(
        self, described: Described, resources: ExitStack, *, verify: bool
    ) -> Image | None:
        """Give an image that it has described as it lies in its own files, if they are here."""
        if not self.door.has_local_files:
            return None
        from dimgx.sources.containersstore import DRIVERS, open_stored

        driver = described.driver
        if driver not in DRIVERS:
            return None
        if described.directory:
            # ROOT/overlay/ID/diff, in the one of several stores that has it.
            root = os.path.normpath(os.path.join(described.directory, "../../.."))
        else:
            root = self._graph_root()
        id = Digest.parse(described.id)
        return open_stored(root, driver, id, described.diff_ids, verify=verify)

    def unshare(self) -> tuple[str, ...]:
        """Give the command that leads to where the service runs, or the program's own one."""
        return self.door.unshare()

    def iter_saved(self, id: str, platform: Platform | None) -> Iterator[bytes]:
        """Yield the archive of an image: Docker's form, in which Podman need not compress layers.

        Raises: RefusedForm where Docker's form cannot hold it; from then on it is OCI's.
        """
        try:
            yield from self.door.iter_saved(id.removeprefix("sha256:"), self._form)
        except Refused as exc:
            if self._form == "oci-archive" or not any(word in str(exc) for word in _BAD_FORM):
                raise
            self._form = "oci-archive"
            raise RefusedForm(exc.status, str(exc)) from exc

    def iter_pulled(self, name: str, platform: Platform | None) -> Iterator[Fields]:
        """Fetch an image from its registry."""
        return self.door.iter_pulled(name, str(platform) if platform else None)

    def list_images(self) -> list[tuple[str, tuple[str, ...]]]:
        """Give the ID and the tags of every image, intermediate ones too."""
        return parse_images(self.door.images(), self.where)

    def find_container(self, name: str) -> str | None:
        """Give the image of a container."""
        try:
            return Fields(self.door.container(name), self.where).text("ImageName")
        except Refused:
            return None

    def close(self) -> None:
        """Let go of the door."""
        self.door.close()

    def _graph_root(self) -> str:
        """Give the directory of the store; empty where Podman does not tell."""
        try:
            store = Fields(self.door.info(), f"{self.where}: what it tells of itself").fields(
                "store"
            )
        except DimgxError:
            return ""
        return (store and store.text("graphRoot")) or ""

    def _inspect(self, name: str) -> Fields:
        return Fields(self.door.inspect(name), f"{self.where}: {name:.200}")

    def _ancestors(
        self, image: Fields, steps: Sequence[HistoryStep]
    ) -> Iterator[tuple[int, Fields]]:
        """Yield the images that `image` was built on and how many steps each has, newest first."""
        below = len(steps)
        parent = image.text("Parent")
        for _ in range(_MOST_ANCESTORS):
            if not parent:
                return
            try:
                ancestor = self._inspect(parent)
            except Refused:  # removed meanwhile
                return
            older = _steps_of(ancestor)
            # Each has fewer steps than the one above, so a circle of parents ends here too.
            if not 0 < len(older) < below or not _is_start(older, steps):
                return
            below = len(older)
            yield below, ancestor
            parent = ancestor.text("Parent")


def _is_oci(image: Fields) -> bool:
    """Tell whether Podman leaves out what OCI's specification does not know, a health check."""
    return "oci" in (image.text("ManifestType") or "oci")


def _place_of(image: Fields) -> tuple[str | None, str | None]:
    """Give what keeps the files of the topmost layer, and where they lie, as far as it is told."""
    driver = image.fields("GraphDriver")
    if driver is None:
        return None, None
    return driver.text("Name"), driver.text_mapping("Data").get("UpperDir")


def _steps_of(image: Fields) -> list[HistoryStep]:
    return [
        HistoryStep(
            empty=fields.boolean("empty_layer"),
            created=rfc3339(fields.value("created")),
            created_by=fields.text("created_by") or None,
            comment=fields.text("comment") or None,
            author=fields.text("author") or None,
        )
        for fields in image.objects("History")
    ]


def _is_start(older: Sequence[HistoryStep], steps: Sequence[HistoryStep]) -> bool:
    return all(
        (own.created, own.created_by) == (step.created, step.created_by)
        for own, step in zip(older, steps, strict=False)
    )


class ServiceDoor:
    """Podman's service at the other end of a connection; `version` is that of its own API."""

    def __init__(self, connection: Connection, version: str) -> None:
        self._connection = connection
        self._version = version
        self.where = f"Podman at {connection.endpoint}"
        self.has_local_files = connection.has_local_files

    def inspect(self, name: str) -> object:
        """Give what is told of an image."""
        return self._get(f"/images/{quoted(name)}/json")

    def history(self, id: str) -> object:
        """Give the steps, newest first."""
        return self._get(f"/images/{quoted(id)}/history")

    def iter_saved(self, id: str, form: str) -> Iterator[bytes]:
        """Yield an archive of the form `docker-archive` or `oci-archive`."""
        return self._connection.iter_get(self._url(f"/images/{quoted(id)}/get"), {"format": form})

    def iter_pulled(self, name: str, platform: str | None) -> Iterator[Fields]:
        """Fetch an image, as Docker's API does it."""
        return self._connection.pull(name, platform)

    def images(self) -> object:
        """Give the list of all images."""
        return self._get("/images/json", {"all": "true"})

    def info(self) -> object:
        """Give what it tells of itself."""
        return self._get("/info")

    def container(self, name: str) -> object:
        """Give what is told of a container."""
        return self._get(f"/containers/{quoted(name)}/json")

    def post(
        self, path: str, chunks: Iterable[bytes], params: Mapping[str, str | Sequence[str]]
    ) -> list[Fields]:
        """Send a tar that comes in pieces, and give what is answered."""
        return self._connection.post(self._url(path), chunks, params)

    def unshare(self) -> tuple[str, ...]:
        """Give the command that leads to where the service runs."""
        from dimgx.sources.unshared import command_into

        return command_into(self._connection.endpoint.socket_path)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _get(self, path: str, params: dict[str, str | int] | None = None) -> object:
        return self._connection.get(self._url(path), path, params)

    def _url(self, path: str) -> str:
        return self._connection.root_url(f"/v{self._version}/libpod{path}")


class ProgramDoor:
    """The program `podman`, run once for each question."""

    def __init__(self, program: str, url: str | None) -> None:
        self._program = Program([program, *(("--url", url) if url else ())], _refused)
        self.where = f"Podman ({' '.join(self._program.command)})"
        self.has_local_files = not url

    def inspect(self, name: str) -> object:
        """Give what is told of an image."""
        return self._inspect("image", name)

    def history(self, id: str) -> object:
        """Give the steps, newest first."""
        return self._ask("history", "--format", "json", "--", id)

    def iter_saved(self, id: str, form: str) -> Iterator[bytes]:
        """Yield an archive of the form `docker-archive` or `oci-archive`."""
        return self._program.iter_output("save", "--format", form, "--", id)

    def iter_pulled(self, name: str, platform: str | None) -> Iterator[Fields]:
        """Fetch an image; nothing is reported but the end."""
        choice = ("--platform", platform) if platform else ()
        self._program.run("pull", "--quiet", *choice, "--", name)
        yield from ()

    def images(self) -> object:
        """Give the list of all images."""
        found = self._ask("images", "--all", "--format", "json")
        # The program calls tags names, and says nothing where there are none.
        return [
            {"Id": fields.text("Id"), "RepoTags": fields.texts("names")}
            for fields in Fields({"images": found}, self.where).objects("images")
        ]

    def info(self) -> object:
        """Give what it tells of itself."""
        return self._ask("info", "--format", "json")

    def container(self, name: str) -> object:
        """Give what is told of a container."""
        return self._inspect("container", name)

    def unshare(self) -> tuple[str, ...]:
        """Give the program's command that leads to where it runs."""
        return *self._program.command, "unshare"

    def close(self) -> None:
        """Nothing is held."""

    def stop(self) -> None:
        """End the program while it is being fed."""
        self._program.stop()

    def feed(self, chunks: Iterable[bytes], *words: str) -> bytes:
        """Run the program with a tar, that comes in pieces, on its standard input."""
        return self._program.feed(chunks, *words)

    def _inspect(self, kind: str, name: str) -> object:
        found = self._ask(kind, "inspect", "--", name)
        return found[0] if isinstance(found, list) and found else found

    def _ask(self, *words: str) -> object:
        what = f"{self.where}: the answer to {words[0]}"
        return parse_json(self._program.run(*words), what, _DOCUMENT_LIMIT)


def _refused(text: str) -> Exception:
    """Give the error that the program's last words come to."""
    text = text.removeprefix("Error: ")[:500]
    said = text.lower()
    # Asked first: of a host that is not there "no such host" is said.
    if any(words in said for words in _NOT_REACHED):
        is_for_good = "no such host" in said or "handshake failed" in said
        return Refused(400, text) if is_for_good else TemporaryError(f"podman: {text}")
    return Refused(404 if any(words in said for words in _UNKNOWN) else 400, text)
