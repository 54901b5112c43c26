"""What goes into the header Authorization, as the registry's challenges ask for it.

1. The first request goes without; the answer 401 says what is wanted. After that every request
   brings it along.
2. A token is for one repository, to pull. It is fetched anew shortly before it expires, and when
   the registry refuses it; refused again it is no use.
3. User, password and tokens go to the registry's own origin and to the realm it names, which has
   to be https (loopback and insecure registries aside).

Spec: distribution-spec, "Token Authentication"; RFC 6749 4.5 and 6; RFC 9110, 11.6.
"""

from __future__ import annotations

import re
import time
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from dimgx.errors import ImageError, SourceError
from dimgx.jsondoc import Fields, parse_json
from dimgx.sources.patience import Transient, parse_retry_after
from dimgx.sources.proxies import is_loopback
from dimgx.sources.transport import NoConnection, host_of, read_body, states_its_end
from dimgx.sources.urls import split_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from requests import Response

    from dimgx.registryoptions import Credentials
    from dimgx.sources.transport import Transport

_TOKEN_LIMIT = 1 << 20
_SHORTEST_LIFE_S = 60
"""What a token lives for if nothing is said."""
_PART = re.compile(r'([A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?')


class Challenge(NamedTuple):
    """One of the ways to prove oneself that a registry offers."""

    scheme: str
    """In lower case."""
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Give the challenges of a header WWW-Authenticate, in order."""
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    for match in _PART.finditer(header):
        name, quoted, plain = match.groups()
        if quoted is None and plain is None:
            parameters = {}
            found.append(Challenge(name.lower(), parameters))
        else:
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters[name.lower()] = value
    return found


class Denied(SourceError):
    """The registry does not let us, whatever we could still try."""


class Authorizer:
    """Gives the header Authorization for one repository. Any thread may use it."""

    def __init__(
        self, transport: Transport, host: str, path: str, credentials: Credentials | None
    ) -> None:
        self._transport, self._host, self._path = transport, host, path
        self.credentials = credentials
        self._lock = Lock()
        self._challenge: Challenge | None = None
        self._header: str | None = None
        self._expires_s = float("inf")
        self._unsent: str | None = None
        if credentials is not None and credentials.registry_token:
            self._header = f"Bearer {credentials.registry_token}"

    def header(self) -> str | None:
        """Give what to send now, None for nothing.

        Raises: Denied, Transient, SourceError where a new token is due and cannot be had.
        """
        with self._lock:
            if self._challenge is not None and time.monotonic() >= self._expires_s:
                self._answer(self._challenge)
            return self._header

    def refused(self, sent: str | None, response: Response) -> bool:
        """Take in an answer 401 to a request that had `sent`; tell whether to ask again.

        Raises: as `header`.
        """
        with self._lock:
            if sent != self._header:  # another thread has a new one already
                return True
            found = parse_challenges(response.headers.get("WWW-Authenticate", ""))
            usable = [one for kind in ("bearer", "basic") for one in found if one.scheme == kind]
            if not usable:
                schemes = ", ".join(one.scheme for one in found) or "none"
                self._unsent = f"in a way that is not known ({schemes})"
                return False
            self._challenge = usable[0]
            return self._answer(usable[0])

    def redact(self, text: str) -> str:
        """Give a text of the registry's without the secrets that it may repeat."""
        secrets = [(self._header or "").partition(" ")[2]]
        if self.credentials is not None:
            own = self.credentials
            secrets += [own.password, own.identity_token, own.registry_token]
        for secret in secrets:
            if len(secret) > 2:
                text = text.replace(secret, "***")
        return text

    def tried(self) -> str:
        """Tell what was tried, for people."""
        if self.credentials is None:
            return (
                "no credentials for it were found (--creds USER names some; `podman login` and"
                " `docker login` keep them), and many registries say the same of a name that they"
                " do not have"
            )
        if self._unsent is not None and self._header is None:
            return f"it asks {self._unsent}, so {self.credentials} was not sent"
        return f"tried was {self.credentials}"

    def _answer(self, challenge: Challenge) -> bool:
        own = self.credentials
        if challenge.scheme == "basic":
            if own is None or not own.user:
                self._unsent = "for a password"
                return False
            header = _basic(own)
            if header == self._header:
                return False
            self._header = header
            return True
        if own is not None and own.registry_token:
            return False
        self._header = f"Bearer {self._fetch_token(challenge)}"
        return True

    def _fetch_token(self, challenge: Challenge) -> str:
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        service = challenge.parameters.get("service", "")
        scope = challenge.parameters.get("scope") or f"repository:{self._path}:pull"
        try:
            return self._read_token(self._ask_for_token(realm, service, scope), host_of(realm))
        except NoConnection as exc:
            raise NoConnection(f"the token service that {self._host} names: {exc}") from None

    def _ask_for_token(self, realm: str, service: str, scope: str) -> Response:
        own = self.credentials
        if own is not None and own.identity_token:
            body = {
                "grant_type": "refresh_token",
                "service": service,
                "scope": scope,
                "client_id": "dimgx",
                "refresh_token": own.identity_token,
            }
            return self._transport.send("POST", realm, {}, body)
        query = [("scope", part) for part in scope.split()]
        if service:
            query.insert(0, ("service", service))
        headers = {}
        if own is not None and own.user:
            query.append(("account", own.user))
            headers["Authorization"] = _basic(own)
        parts = urlsplit(realm)
        joined = "&".join(filter(None, (parts.query, urlencode(query))))
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, joined, ""))
        return self._transport.send("GET", url, headers)

    def _check_realm(self, realm: str) -> None:
        """See that credentials may go to where a token is asked for.

        Raises: SourceError, which shows no more of a URL than its scheme and host.
        """
        parts = split_url(realm)
        if parts is None:
            raise SourceError(f"{self._host} wants a token from what is no https URL")
        shown = f"{parts.scheme}://{host_of(realm)}"
        where = f"{self._host} wants a token from {shown!r:.200}"
        if parts.username is not None:
            raise SourceError(f"{where} with a user of its own choice, which is not done")
        allowed = self._transport.is_insecure or is_loopback(parts.hostname or "")
        if parts.scheme == "http" and not allowed:
            raise SourceError(
                f"{where}, which is no https URL; only --tls-verify=false sends credentials there"
            )

    def _read_token(self, response: Response, realm: str) -> str:
        status = response.status_code
        what = f"the token service {realm}"
        time_s = self._transport.timeout_s
        data = read_body(response, realm, _TOKEN_LIMIT, f"the answer of {what}", time_s)
        if status in (408, 429) or status >= 500:
            text = "limits how often one may ask (429)" if status == 429 else f"fails ({status})"
            raise Transient(f"{what} {text}", parse_retry_after(response.headers))
        if status in (400, 401, 403, 404):
            raise Denied(
                f"{what} gives no token for {self._host}/{self._path} ({status}): {self.tried()}"
            )
        if status != 200:
            raise SourceError(f"{what} answers with status {status}")
        try:
            answer = Fields(parse_json(data, f"the answer of {what}", _TOKEN_LIMIT), what)
            token = answer.text("token") or answer.text("access_token")
            life = answer.integer("expires_in") or _SHORTEST_LIFE_S
        except ImageError:  # its text could show what must not be shown
            if not states_its_end(response):
                raise Transient(f"{what} broke off at byte {len(data)}") from None
            raise SourceError(f"{what} gives an answer that makes no sense") from None
        if not token or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SourceError(f"{what} gives an answer without a token")
        self._expires_s = time.monotonic() + max(life * 0.9 - 1, 1)
        return token


def _basic(credentials: Credentials) -> str:
    import base64

    pair = f"{credentials.user}:{credentials.password}"
    encoded = base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()
    return f"Basic {encoded}"
