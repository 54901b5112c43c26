"""Engines: how that of an image is asked, and which one takes the results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dimgx.console.targetname import INTO_CONTAINERD
from dimgx.errors import UsageError
from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from dimgx.console.options import Options
    from dimgx.image import Tick
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.targets.engine import EngineTarget

_KINDS = {"docker-daemon": "docker", "podman": "podman", "containerd": "containerd"}


def kind_of(reference: str) -> str | None:
    """Give the kind of engine that an image is kept by; None for one from elsewhere."""
    return _KINDS.get(parse_reference(reference).transport)


def engine_options(reference: str, options: Options, tick: Tick | None) -> EngineOptions | None:
    """Give how the engine of an image is asked; None where nothing says anything about one."""
    kind = kind_of(reference)
    if kind is None and options.host is None and options.pull == "never":
        return None
    import warnings

    from dimgx.sources.endpoint import EngineOptions

    # Of a credential helper that is missing the docker package warns besides failing.
    warnings.filterwarnings("ignore", module=r"docker\.")
    # An image from elsewhere leaves `-H` to the engine that is to take it, or that has others.
    has_others = kind is None and any(map(kind_of, options.images))
    is_others = has_others or (kind is None and (options.load or options.import_))
    return EngineOptions.of(
        os.environ,
        host=None if is_others else options.host,
        pull="never" if has_others else options.pull,
        is_direct=options.direct,
        tick=tick,
        are_rows_wanted=bool(options.layers or options.squash_from)
        or not (options.check or options.update),
    )


def open_engine_target(options: Options) -> EngineTarget:
    """Give the engine that is to take the images.

    That is the one named, else the one that all of them came from, else one that is there.

    Raises: UsageError, SourceError, TemporaryError.
    """
    from dimgx.sources.endpoint import EngineOptions
    from dimgx.sources.engines import open_target_engine
    from dimgx.targets.engine import EngineTarget

    kind: str = options.load or options.import_ or "any"
    origins = {kind_of(reference) for reference in options.images}
    (origin,) = origins if len(origins) == 1 else (None,)
    if kind == "any":
        kind = origin or "any"
    if kind == "containerd":
        raise UsageError(
            f"containerd takes an image through a pipe: {INTO_CONTAINERD}; --load=docker and"
            " --load=podman name other engines"
        )
    # `-H` means the engine that the images come from where that is another one.
    others = origins - {None, kind}
    host = None if others and kind != "any" else options.host
    engine = EngineOptions.of(os.environ, host=host)
    is_named = kind in (options.load, options.import_)
    return EngineTarget(open_target_engine(kind, engine, is_named=is_named))
