"""How the command line and the environment want registries to be reached."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from dimgx.console.terminal import is_terminal
from dimgx.errors import SourceError, UsageError
from dimgx.registryoptions import DEFAULT_CACHE_SIZE, Credentials, RegistryOptions

if TYPE_CHECKING:
    from dimgx.console.options import Options

_LONGEST_PASSWORD = 1 << 16


def registry_options(options: Options, environ: Mapping[str, str]) -> RegistryOptions:
    """Give what podman and Docker would use, and what `options` say instead.

    Asks for a password where one is missing.

    Raises: UsageError, SourceError for what cannot work.
    """
    found = RegistryOptions.from_environment(environ)
    named = environ.get("CONTAINERS_REGISTRIES_CONF")
    if named:  # without it what is blocked or mirrored would not be
        _check_there(named, "CONTAINERS_REGISTRIES_CONF")
    if options.authfile is not None:
        _check_there(options.authfile, "--authfile")
        found = replace(found, auth_files=(options.authfile,))
    if options.retry_time is not None:
        found = replace(found, retry_time_s=options.retry_time)
    return replace(
        found,
        credentials=None if options.creds is None else _credentials(options),
        tls_verify=options.tls_verify,
        cert_dir=options.cert_dir,
        cache_dir=_cache_dir(options, environ),
        cache_size=DEFAULT_CACHE_SIZE if options.cache_size is None else options.cache_size,
    )


def _check_there(path: str, what: str) -> None:
    try:
        os.stat(path)
    except OSError as exc:
        raise SourceError(f"{what} {path}: {exc.strerror}") from exc


def _credentials(options: Options) -> Credentials:
    assert options.creds is not None
    user, colon, password = options.creds.partition(":")
    if not user:
        raise UsageError("--creds names no user: write USER, or USER:PASSWORD")
    if not colon:
        password = _read_password() if options.password_stdin else _ask_password(user)
    return Credentials(user, password, origin="--creds")


def _read_password() -> str:
    if sys.stdin is None:
        raise SourceError("standard input is closed, so no password can be read from it")
    # With PYTHONUNBUFFERED, `sys.stdin` gives no more at once than has come.
    with open(sys.stdin.fileno(), "rb", closefd=False) as file:
        data = file.read(_LONGEST_PASSWORD)
    password = os.fsdecode(data).removesuffix("\n").removesuffix("\r")
    if not password:
        raise UsageError("standard input holds no password")
    return password


def _ask_password(user: str) -> str:
    if not is_terminal(sys.stdin):
        raise UsageError(
            "--creds names no password, and there is no terminal to ask at: pipe it in with"
            " --password-stdin"
        )
    from getpass import getpass

    try:
        return getpass(f"Password of {user}: ")
    except EOFError:
        raise UsageError("no password was given") from None


def _cache_dir(options: Options, environ: Mapping[str, str]) -> str | None:
    named, what = options.cache_dir, "--cache-dir"
    if named is None:
        named, what = environ.get("DIMGX_CACHE_DIR") or None, "DIMGX_CACHE_DIR"
    if named is None:
        if options.cache_size is not None:
            raise UsageError("--cache-size has no effect without --cache-dir or DIMGX_CACHE_DIR")
        return None
    try:
        os.makedirs(named)
    except FileExistsError:  # as a directory or not
        pass
    except OSError as exc:
        raise SourceError(f"{what} {named}: {exc.strerror}") from exc
    if not os.path.isdir(named) or not os.access(named, os.R_OK | os.W_OK | os.X_OK):
        raise SourceError(f"{what} {named} is no directory that can be written to")
    return named
