"""Run settings as lines of a Dockerfile, as `docker import --change` and podman's take them.

1. Docker reads them as it reads a Dockerfile: words are unquoted and `$NAME` is expanded, but not
   in JSON lists. A line ends at a newline, whatever quotes say. ENTRYPOINT forgets a CMD before it.
2. Podman takes the text behind the word as it is, but for a pair of quotes around it, and knows no
   HEALTHCHECK. It drops ONBUILD. Ports are single ones; in images of its own builds they may be a
   range. Neither of them takes SHELL.
3. What cannot be said is an error: nothing of an image gets lost unseen.

Spec: moby builder/dockerfile, buildkit frontend/dockerfile/parser; containers/common libimage.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dimgx.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dimgx.settings import HealthCheck, Settings

_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})(/.*)?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,-]+")


def docker_changes(settings: Settings) -> list[str]:
    """Give what `docker import` is told (rule 1), all but SHELL.

    Raises: ImageError for what cannot be said there.
    """
    return [_one_line(text) for text in _docker_changes(settings)]


def _docker_changes(settings: Settings) -> Iterator[str]:
    for name, value in _pairs(settings.env):
        yield f"ENV {_word(name)}={_word(value)}"
    for name, value in _labels(settings):
        yield f"LABEL {_word(name)}={_word(value)}"
    for port in settings.ports:
        yield f"EXPOSE {_word(port)}"
    if settings.volumes:
        yield f"VOLUME {_json([_escaped(path) for path in settings.volumes])}"
    if settings.workdir:
        yield f"WORKDIR {_word(settings.workdir)}"
    if settings.user:
        yield f"USER {_word(settings.user)}"
    if settings.stop_signal:
        yield f"STOPSIGNAL {_word(settings.stop_signal)}"
    if settings.healthcheck is not None:
        yield f"HEALTHCHECK {_health(settings.healthcheck)}"
    for line in settings.on_build:
        if line != line.strip() or line.endswith("\\"):
            raise _unsayable(f"its ONBUILD {line!r:.100}")
        yield f"ONBUILD {line}"
    if settings.entrypoint:
        yield f"ENTRYPOINT {_json(settings.entrypoint)}"
    if settings.cmd:
        yield f"CMD {_json(settings.cmd)}"


def _health(check: HealthCheck) -> str:
    kind, *words = check.test
    if kind == "NONE":
        return "NONE"
    flags = "".join(
        f"--{name}={time}ns "
        for name, time in (
            ("interval", check.interval_ns),
            ("timeout", check.timeout_ns),
            ("start-period", check.start_period_ns),
            ("start-interval", check.start_interval_ns),
        )
        if time
    )
    if check.retries:
        flags += f"--retries={check.retries} "
    if kind == "CMD":
        return f"{flags}CMD {_json(words)}"
    line = " ".join(words)
    if kind != "CMD-SHELL" or line != line.strip() or line.startswith("[") or line.endswith("\\"):
        raise _unsayable("its health check")
    return f"{flags}CMD {line}"


def podman_changes(settings: Settings) -> list[str]:
    """Give what `podman import` is told (rule 2), all but the health check, ONBUILD and SHELL.

    Raises: ImageError for what cannot be said there.
    """
    return list(_podman_changes(settings))


def _podman_changes(settings: Settings) -> Iterator[str]:
    for name, value in _pairs(settings.env):
        yield f'ENV {name}="{value}"'
    for name, value in _labels(settings):
        yield f'LABEL {name}="{value}"'
    for port in settings.ports:
        matched = _RANGE.fullmatch(port)
        if matched is None:
            yield f"EXPOSE {port}"
        else:
            for number in range(int(matched[1]), int(matched[2]) + 1):
                yield f"EXPOSE {number}{matched[3] or ''}"
    if settings.volumes:
        yield f"VOLUME {_json(settings.volumes)}"
    for word, value in (
        ("WORKDIR", settings.workdir),
        ("USER", settings.user),
        ("STOPSIGNAL", settings.stop_signal),
    ):
        if value != value.strip():
            raise _unsayable(f"its {word}")
        if value:
            yield f"{word} {value}"
    if settings.entrypoint:
        yield f"ENTRYPOINT {_json(settings.entrypoint)}"
    if settings.cmd:
        yield f"CMD {_json(settings.cmd)}"


def _pairs(env: Iterable[str]) -> Iterator[tuple[str, str]]:
    for entry in env:
        name, equals, value = entry.partition("=")
        if not name or not equals or name != name.strip():
            raise _unsayable(f"its variable {entry!r:.100}")
        yield name, value


def _labels(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, value in settings.labels.items():
        if "=" in name:  # in quotes too
            raise _unsayable(f"its label {name!r:.100}")
        yield name, value


def _word(text: str) -> str:
    """Give a word that Docker unquotes and expands to `text`."""
    return text if _PLAIN.fullmatch(text) else f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return re.sub(r'([\\"$])', r"\\\1", text)


def _json(words: Iterable[str]) -> str:
    import json

    return json.dumps(list(words))


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise _unsayable(f"{text.split()[0]} with a newline")
    return text


def _unsayable(what: str) -> ImageError:
    return ImageError(f"the engine cannot be told {what} while importing: --load keeps all of it")
