"""Engines as targets: an image is loaded into them, or a plain tar imported with its settings.

Both are streamed. Nothing is seen before the last byte has come and the engine has found it good;
a stream that breaks off leaves nothing there.

Spec: Docker Engine API, Podman's libpod API; podman-load(1), podman-import(1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dimgx.errors import SourceError
from dimgx.images.changes import docker_changes, podman_changes
from dimgx.settings import Settings
from dimgx.sources.connection import Refused
from dimgx.sources.daemon import DockerEngine, full_id
from dimgx.sources.described import Engine
from dimgx.sources.engine import translated
from dimgx.sources.podman import Podman, ProgramDoor, ServiceDoor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dimgx.platforms import Platform

_LOADED = re.compile(r"Loaded image(?:\(s\))?(?: ID)?: *(\S+)")
_CREATED_BY = "dimgx import"


class Imported(NamedTuple):
    """What goes with a plain tar."""

    names: tuple[str, ...]
    """Each with its tag."""
    settings: Settings
    platform: Platform | None


class Receiver(Protocol):
    """An engine that takes images. Its methods raise Refused where it says no."""

    def load(self, chunks: Iterable[bytes]) -> list[str]:
        """Take a docker-archive, and give what was loaded: names, and IDs of what has none."""

    def import_tar(self, chunks: Iterable[bytes], what: Imported) -> str:
        """Take a plain tar, and give the ID; it has no name yet."""

    def tag(self, id: str, name: str) -> None:
        """Give an image one more name."""

    def warnings(self, what: Imported) -> list[str]:
        """Give what gets lost."""

    def stop(self) -> None:
        """End what is being fed, where that sees no broken connection."""


class EngineTarget:
    """An engine that takes what is written; `load` and `import_tar` give IDs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._receiver = _receiver_of(engine)
        self.where = engine.where
        """What people call it."""

    def load(self, chunks: Iterable[bytes]) -> list[str]:
        """Take a docker-archive, and give the images' IDs in its order, each once.

        Raises: SourceError, TemporaryError; what `chunks` raises.
        """
        try:
            named = self._receiver.load(chunks)
            ids = [self._engine.describe(name, None).id for name in named]
        except Refused as exc:
            raise translated(exc, self._engine.where) from exc
        if not ids:
            raise SourceError(f"{self._engine.where} does not tell what it has loaded")
        return list(dict.fromkeys(ids))

    def import_tar(self, chunks: Iterable[bytes], what: Imported) -> str:
        """Take a plain tar, and give the image's ID.

        Raises: ImageError for settings that cannot be told; SourceError, TemporaryError; what
            `chunks` raises.
        """
        try:
            id = full_id(self._receiver.import_tar(chunks, what), self._engine.where)
            # Only now: Podman takes any end between two members for the tar's, ours as well.
            for name in what.names:
                self._receiver.tag(id, name)
        except Refused as exc:
            raise translated(exc, self._engine.where) from exc
        return id

    def stop(self) -> None:
        """End a program that still reads what it is fed, and could take our end for the end."""
        self._receiver.stop()

    def check(self, what: Imported) -> list[str]:
        """See that the settings can be told, and give warnings of what gets lost.

        Raises: ImageError.
        """
        return self._receiver.warnings(what)

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()


def _receiver_of(engine: Engine) -> Receiver:
    if isinstance(engine, DockerEngine):
        return _Docker(engine)
    assert isinstance(engine, Podman)
    if isinstance(engine.door, ProgramDoor):
        return _PodmanProgram(engine.door)
    return _PodmanService(engine.door)


class _Docker:
    def __init__(self, engine: DockerEngine) -> None:
        self._connection = engine.connection

    def load(self, chunks: Iterable[bytes]) -> list[str]:
        answers = self._connection.post(
            self._connection.url("/images/load"), chunks, {"quiet": "1"}
        )
        told = "".join(answer.text("stream") or "" for answer in answers)
        return _LOADED.findall(told)

    def import_tar(self, chunks: Iterable[bytes], what: Imported) -> str:
        params: dict[str, str | list[str]] = {
            "fromSrc": "-",
            "message": _CREATED_BY,
            "changes": docker_changes(self._sayable(what.settings)),
        }
        if what.platform is not None:
            params["platform"] = str(what.platform)
        answers = self._connection.post(self._connection.url("/images/create"), chunks, params)
        return next((answer.text("status") or "" for answer in reversed(answers)), "")

    def tag(self, id: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        url = self._connection.url(f"/images/{id}/tag")
        self._connection.post(url, (), {"repo": repository, "tag": tag})

    def warnings(self, what: Imported) -> list[str]:
        told = self._sayable(what.settings)
        docker_changes(told)
        lost = []
        if told.stop_signal != what.settings.stop_signal:
            lost.append("stop signal")
        if told.healthcheck != what.settings.healthcheck:
            lost.append("start interval of a health check")
        if told.shell:
            lost.append("SHELL")
        return [
            f"this Docker Engine imports no {name}, so it is left out (--load keeps it)"
            for name in lost
        ]

    def _sayable(self, settings: Settings) -> Settings:
        """Leave out STOPSIGNAL before Docker 23.0, and --start-interval before 25.0."""
        version, check = self._connection.api_version, settings.healthcheck
        if version < (1, 42):
            settings = settings._replace(stop_signal="")
        if version < (1, 44) and check is not None:
            settings = settings._replace(healthcheck=check._replace(start_interval_ns=0))
        return settings

    def stop(self) -> None:
        pass


class _PodmanService:
    def __init__(self, door: ServiceDoor) -> None:
        self._door = door

    def load(self, chunks: Iterable[bytes]) -> list[str]:
        answers = self._door.post("/images/load", chunks, {})
        return [name for answer in answers for name in answer.texts("Names")]

    def import_tar(self, chunks: Iterable[bytes], what: Imported) -> str:
        params: dict[str, str | list[str]] = {
            "message": _CREATED_BY, "changes": podman_changes(what.settings)
        }  # fmt: skip
        params |= _platform_words(what)
        answers = self._door.post("/images/import", chunks, params)
        return next((answer.text("Id") or "" for answer in answers), "")

    def tag(self, id: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        self._door.post(f"/images/{id}/tag", (), {"repo": repository, "tag": tag})

    def warnings(self, what: Imported) -> list[str]:
        return _podman_warnings(what.settings)

    def stop(self) -> None:
        pass


class _PodmanProgram:
    def __init__(self, door: ProgramDoor) -> None:
        self._door = door

    def load(self, chunks: Iterable[bytes]) -> list[str]:
        said = self._door.feed(chunks, "load", "--quiet")
        return _LOADED.findall(said.decode("utf-8", "replace"))

    def import_tar(self, chunks: Iterable[bytes], what: Imported) -> str:
        words = ["import", "--quiet", "--message", _CREATED_BY]
        for change in podman_changes(what.settings):
            words += ["--change", change]
        spelled = {"os": "--os", "architecture": "--arch", "variant": "--variant"}
        for key, value in _platform_words(what).items():
            words += [spelled[key], value]
        said = self._door.feed(chunks, *words, "-")
        return next(reversed(said.decode("utf-8", "replace").split()), "")

    def tag(self, id: str, name: str) -> None:
        self._door.feed((), "tag", id, name)

    def warnings(self, what: Imported) -> list[str]:
        return _podman_warnings(what.settings)

    def stop(self) -> None:
        self._door.stop()


def _podman_warnings(settings: Settings) -> list[str]:
    """See that Podman can be told the settings, and give what it does not take."""
    podman_changes(settings)
    lost = {
        "health check": settings.healthcheck,
        "ONBUILD": settings.on_build,
        "SHELL": settings.shell,
    }
    return [
        f"Podman imports no {name}, so it is left out (--load keeps it)"
        for name, said in lost.items()
        if said
    ]


def _platform_words(what: Imported) -> dict[str, str]:
    """Give what is known of the platform, by the service's names."""
    known = {} if what.platform is None else what.platform._asdict()
    return {key: value for key, value in known.items() if value}
