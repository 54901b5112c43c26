"""How an image wants to be run: what its config says of it, or an engine that keeps it.

Go's readings count (see `jsondoc`): keys in any case, null as absent. What is empty is as good as
absent to every engine, and some write the one, some the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from dimgx.digest import Digest
from dimgx.jsondoc import Fields


class HealthCheck(NamedTuple):
    """How to find out whether a container works. Times are in nanoseconds, 0 for the usual."""

    test: tuple[str, ...]
    """NONE; CMD and words; CMD-SHELL and a line for the shell."""
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    retries: int = 0
    start_interval_ns: int = 0


class Settings(NamedTuple):
    """What a config says about running."""

    env: tuple[str, ...] = ()
    """`NAME=value`, in order."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    labels: Mapping[str, str] = MappingProxyType({})
    ports: tuple[str, ...] = ()
    """`80/tcp`, sorted."""
    volumes: tuple[str, ...] = ()
    """Paths, sorted."""
    stop_signal: str = ""
    on_build: tuple[str, ...] = ()
    """What a build on this image does first."""
    shell: tuple[str, ...] = ()
    """What runs a build's lines."""
    healthcheck: HealthCheck | None = None
    is_health_known: bool = True
    """False where the one who tells may leave the health check out."""

    @property
    def digest(self) -> str:
        """Of all but the health check, the same wherever the image comes from."""
        told = self._asdict() | {"labels": dict(self.labels)}
        del told["healthcheck"], told["is_health_known"]
        return _digest_of(told)

    @property
    def health_digest(self) -> str | None:
        """Of the health check; `none` for none, None where that is not known."""
        check = self.healthcheck
        if check is None:
            return "none" if self.is_health_known else None
        return _digest_of(check._asdict())


def _digest_of(value: dict[str, object]) -> str:
    import json

    told = {key: item for key, item in value.items() if item}
    text = json.dumps(told, separators=(",", ":"), sort_keys=True)
    return str(Digest.of(text.encode()))


def parse_settings(document: Fields, *, is_health_known: bool = True) -> Settings:
    """Give the settings of a config, or of what an engine's `inspect` tells.

    Raises: ImageError where a field is of the wrong type.
    """
    config = document.fields("config") or Fields({}, document.what)
    # Podman tells it beside the config.
    health = config.fields("Healthcheck") or document.fields("Healthcheck")
    return parse_process(config)._replace(
        labels=config.text_mapping("Labels"),
        ports=tuple(sorted(config.mapping("ExposedPorts"))),
        volumes=tuple(sorted(config.mapping("Volumes"))),
        stop_signal=config.text("StopSignal") or "",
        on_build=tuple(config.texts("OnBuild")),
        shell=tuple(config.words("Shell")),
        healthcheck=_parse_health(health) if health is not None else None,
        is_health_known=is_health_known,
    )


def parse_process(config: Fields) -> Settings:
    """Give what a config's `config` says of the process alone: env, words, user and directory.

    Raises: ImageError where one of these is of the wrong type.
    """
    return Settings(
        env=tuple(config.texts("Env")),
        entrypoint=tuple(config.words("Entrypoint")),
        cmd=tuple(config.words("Cmd")),
        user=config.text("User") or "",
        workdir=config.text("WorkingDir") or "",
    )


def _parse_health(fields: Fields) -> HealthCheck | None:
    test = fields.words("Test")
    if not test:
        return None
    return HealthCheck(
        test=tuple(test),
        interval_ns=fields.integer("Interval") or 0,
        timeout_ns=fields.integer("Timeout") or 0,
        start_period_ns=fields.integer("StartPeriod") or 0,
        retries=fields.integer("Retries") or 0,
        start_interval_ns=fields.integer("StartInterval") or 0,
    )
