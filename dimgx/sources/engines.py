"""From a reference to the engine that is meant: Docker, Podman's service, or the program."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from dimgx.errors import SourceError
from dimgx.imagename import registry_hint
from dimgx.sources.absence import hint_of_file
from dimgx.sources.connection import Connection
from dimgx.sources.daemon import DockerEngine
from dimgx.sources.described import Engine
from dimgx.sources.endpoint import (
    EngineEndpoint,
    EngineOptions,
    docker_sockets,
    find_docker,
    find_podman,
    podman_sockets,
)
from dimgx.sources.podman import Podman, ProgramDoor, ServiceDoor

if TYPE_CHECKING:
    from dimgx.reference import Reference


def open_engine(reference: Reference, options: EngineOptions) -> Engine:
    """Give the engine that keeps the image of `reference`.

    Raises: SourceError where there is none, or for good; TemporaryError where it does not answer.
    """
    hint = registry_hint(reference.name or "")
    if reference.transport == "podman":
        more = f"; without it the image's registry has it: {hint}" if hint else ""
        return _open_podman(options, more)
    more = f"; without any engine its registry has the image: {hint}" if hint else ""
    if is_podman_here(options):
        more = f"; Podman is here: dimgx [options] podman:{reference.name:.300}" + more
    return _open_docker(options, more + hint_of_file(reference))


def is_podman_here(options: EngineOptions) -> bool:
    """Tell whether Podman can be asked for an image."""
    return find_podman(options) is not None or shutil.which("podman") is not None


def open_target_engine(kind: str, options: EngineOptions, *, is_named: bool = False) -> Engine:
    """Give the engine that is to take an image: "docker", "podman", or "any" that is there.

    Where Podman `is_named`, no other takes it.

    Raises: SourceError where there is none, or for good; TemporaryError where it does not answer.
    """
    if kind == "podman" or (kind == "any" and find_docker(options) is None):
        engine = _open_podman(options)
        if is_named and not isinstance(engine, Podman):
            where = engine.where
            engine.close()
            raise SourceError(f"{where} is no Podman: --load=docker and --import=docker mean it")
        return engine
    return _open_docker(options)


def _open_docker(options: EngineOptions, more: str = "") -> Engine:
    endpoint = find_docker(options)
    if endpoint is None:
        tried = ", ".join(docker_sockets(options))
        raise SourceError(
            f"no Docker Engine is here: nothing listens at {tried}. Start it, or name one"
            f" with -H or DOCKER_HOST{more}"
        )
    return _open_service(endpoint, options)


def _open_podman(options: EngineOptions, more: str = "") -> Engine:
    endpoint = find_podman(options)
    program = shutil.which("podman")
    if endpoint is not None and not (program and _is_far(endpoint)):
        return _open_service(endpoint, options)
    if program is None:
        tried = ", ".join(podman_sockets(options))
        raise SourceError(
            f"no Podman is here: nothing listens at {tried}, and there is no program `podman`."
            " Start its service (systemctl --user start podman.socket), name one with -H or"
            f" CONTAINER_HOST, or install podman{more}"
        )
    return Podman(ProgramDoor(program, endpoint.url if endpoint else None))


def _is_far(endpoint: EngineEndpoint) -> bool:
    """Tell whether only the program can get there: by ssh to a socket's path."""
    return endpoint.url.startswith("ssh://") and "/" in endpoint.url.removeprefix("ssh://")


def _open_service(endpoint: EngineEndpoint, options: EngineOptions) -> Engine:
    """Connect, and find out who it is: each may answer at the other's address."""
    connection = Connection(endpoint, options)
    for component in connection.version.objects("Components"):
        if component.text("Name") == "Podman Engine":
            details = component.fields("Details")
            spoken = details.text("MinAPIVersion") if details else None
            return Podman(ServiceDoor(connection, spoken or "4.0.0"))
    return DockerEngine(connection)
