"""Which proxy a host is reached through, by the rules of NO_PROXY that Go's programs have."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from dimgx.errors import SourceError
from dimgx.sources.urls import split_url

if TYPE_CHECKING:
    from dimgx.registryoptions import Proxies

_PORT = re.compile("[0-9]{1,5}")


def is_loopback(host: str) -> bool:
    """Tell whether `host`, as a split URL has it, is this machine itself."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def find_proxy(proxies: Proxies, scheme: str, host: str, port: int) -> str | None:
    """Give the URL of the proxy for `scheme`://`host`:`port`, None to go straight there.

    Raises: SourceError where it is set to something else, as to a SOCKS proxy.
    """
    proxy = proxies.https if scheme == "https" else proxies.http
    if not proxy or is_loopback(host) or _is_excepted(proxies.none, host, port):
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    if split_url(url) is None:  # not shown, as it may hold a password
        raise SourceError(
            f"the proxy that is set for {scheme} is no http or https URL: set"
            f" {scheme.upper()}_PROXY to one, or put {host} into NO_PROXY"
        )
    return url


def _is_excepted(rules: str, host: str, port: int) -> bool:
    address = _address(host)
    for rule in rules.lower().replace(",", " ").split():
        if rule == "*":
            return True
        name, own_port = _split_port(rule)
        if own_port is not None and own_port != port:
            continue
        if address is not None:
            if _fits_network(address, name):
                return True
            continue
        name = name.removeprefix("*")
        if host.endswith(name if name.startswith(".") else f".{name}") or host == name:
            return True
    return False


def _fits_network(address: IPv4Address | IPv6Address, rule: str) -> bool:
    try:
        return address in ip_network(rule.strip("[]"), strict=False)
    except ValueError:
        return False


def _split_port(rule: str) -> tuple[str, int | None]:
    name, colon, port = rule.rpartition(":")
    if colon and _PORT.fullmatch(port) and (":" not in name or name.endswith("]")):
        return name, int(port)
    return rule, None


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
