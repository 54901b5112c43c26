"""TLS as registries' users set it up: whom to trust, and what to show for oneself."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, NamedTuple

from dimgx.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dimgx.registryoptions import RegistryOptions


class Certificates(NamedTuple):
    """What lies in a certificate directory: CAs, and pairs of certificate and key."""

    authorities: tuple[str, ...] = ()
    own: tuple[tuple[str, str], ...] = ()


def find_certificates(options: RegistryOptions, domain: str) -> Certificates:
    """Give what is set up for the registry `host[:port]`; Docker Hub's is `docker.io`.

    Raises: SourceError where a directory cannot be read or holds half of a pair.
    Spec: containers-certs.d(5).
    """
    if options.cert_dir is not None:
        return _read_directory(options.cert_dir)
    for root in options.cert_roots:
        directory = os.path.join(root, domain)
        if os.path.isdir(directory):
            return _read_directory(directory)
    return Certificates()


def _read_directory(directory: str) -> Certificates:
    try:
        names = sorted(os.listdir(directory))
    except OSError as exc:
        raise SourceError(f"certificates in {directory}: {exc.strerror}") from exc
    authorities = [os.path.join(directory, name) for name in names if name.endswith(".crt")]
    own = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix == ".cert":
            if f"{stem}.key" not in names:
                raise SourceError(f"{directory}: {stem}.key is missing, which {name} needs")
            own.append((os.path.join(directory, name), os.path.join(directory, f"{stem}.key")))
        elif suffix == ".key" and f"{stem}.cert" not in names:
            raise SourceError(f"{directory}: {stem}.cert is missing, which {name} needs (CAs end"
                              " in .crt)")  # fmt: skip
    return Certificates(tuple(authorities), tuple(own))


def make_context(
    certificates: Certificates, bundles: Sequence[str], *, verify: bool
) -> ssl.SSLContext:
    """Give the context of connections; `bundles` hold the CAs to trust instead of the system's.

    Raises: SourceError where a file cannot be read or holds no certificate.
    """
    if not verify:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif bundles:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for path in bundles:
            _trust(context, path)
    else:
        context = ssl.create_default_context()
        paths = ssl.get_default_verify_paths()
        if paths.cafile is None and paths.capath is None and not context.get_ca_certs():
            import certifi  # requests needs it, so it is there

            _trust(context, certifi.where())
    # As Go's programs have it, with any Python: a certificate that is trusted by name needs no more
    # above it, and a private CA need not have every extension that RFC 5280 wants.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if verify:
        for path in certificates.authorities:
            _trust(context, path)
    for certificate, key in certificates.own:
        try:
            # A password would be asked for on the terminal.
            context.load_cert_chain(certificate, key, password=_refuse_password)
        except (OSError, ValueError) as exc:
            raise SourceError(f"{certificate} and its key cannot be used: {_reason(exc)}") from exc
    return context


def _refuse_password() -> str:
    raise ValueError("the key is encrypted: decrypt it first")


def _trust(context: ssl.SSLContext, path: str) -> None:
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except OSError as exc:  # ssl.SSLError is one
        raise SourceError(f"CA certificates in {path}: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLError):
        if exc.reason == "KEY_VALUES_MISMATCH":
            return "they do not belong together"
        return "they are not in PEM form" if exc.library else str(exc)
    return getattr(exc, "strerror", None) or str(exc)
