"""Credentials: where they are found, whom they are shown to, and that nobody else sees them."""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dimgx import Credentials, RegistryOptions, SourceError, TemporaryError
from dimgx.sources.auth import find_credentials
from dimgx.sources.tokens import parse_challenges
from tests.dsl import file, layer
from tests.registries import (
    PASSWORD,
    USER,
    FaultyRegistry,
    Handler,
    Rule,
    fails,
    fault,
    faulty_registry,
    flat,
    wants_password,
    wants_token,
)
from tests.test_registry_faults import blob_store, redirects
from tests.writers import Json, image, sha256, to_json

APP = image(layer(file("a", b"a")), layer(file("b", b"b")), layer(file("c", b"c")))
ANNA = Credentials(USER, PASSWORD)


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


@pytest.fixture(scope="module")
def expected() -> bytes:
    with faulty_registry() as plain:
        plain.add(APP)
        return flat(plain.reference())


def pair(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def knows_anna(handler: Handler) -> bool:
    return handler.headers.get("Authorization") == f"Basic {pair(USER, PASSWORD)}"


# -- challenges ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="s",scope="repository:o/n:pull,push"',
            [("bearer", {"realm": "https://a/t", "service": "s",
                         "scope": "repository:o/n:pull,push"})],
        ),
        (
            'Basic realm="a, b", BEARER Realm=https://a/t , error="x \\"y\\""',
            [("basic", {"realm": "a, b"}),
             ("bearer", {"realm": "https://a/t", "error": 'x "y"'})],
        ),
        ("Negotiate", [("negotiate", {})]),
        ("", []),
        (",,, ", []),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    found = [(one.scheme, dict(one.parameters)) for one in parse_challenges(header)]
    assert found == expected


def test_challenges_among_a_million_commas() -> None:
    # Work that grows with the square of their number would take hours.
    found = parse_challenges("Negotiate" + "," * 1_000_000 + '" Basic')
    assert [one.scheme for one in found] == ["negotiate", "basic"]


# -- tokens --------------------------------------------------------------------------------------


def token_queries(registry: FaultyRegistry) -> list[dict[str, list[str]]]:
    parts = [urlsplit(path) for path, _ in registry.requests]
    return [parse_qs(part.query, True) for part in parts if part.path == "/token"]


def test_anonymous_token(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(wants_token(faulty))
    assert flat(faulty.reference()) == expected
    assert token_queries(faulty) == [{"service": ["test"], "scope": ["repository:app:pull"]}]
    # Only the very first request went without.
    assert [path for path, h in faulty.requests if "Authorization" not in h] == [
        "/v2/app/manifests/1", faulty.requests[1][0],
    ]  # fmt: skip


def test_token_with_credentials(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(wants_token(faulty, check=knows_anna))
    assert flat(faulty.reference(), credentials=ANNA) == expected
    assert token_queries(faulty)[0]["account"] == [USER]
    basic = [path for path, h in faulty.requests if h.get("Authorization", "").startswith("Basic")]
    assert len(basic) == 1 and basic[0].startswith("/token?")


@pytest.mark.parametrize("uses", [1, 2])
def test_token_that_expires_between_requests(
    faulty: FaultyRegistry, expected: bytes, uses: int
) -> None:
    faulty.rules.append(wants_token(faulty, uses=uses))
    assert flat(faulty.reference()) == expected


def test_token_that_expires_by_its_own_word(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(wants_token(faulty, expires_in=1))
    assert flat(faulty.reference()) == expected


@pytest.mark.parametrize(
    ("stated", "passed_s", "is_renewed"),
    [(300, 268.9, False), (300, 269, True), (None, 52.9, False), (None, 53, True), (1, 0.9, False)],
)
def test_token_is_renewed_shortly_before_it_expires(
    faulty: FaultyRegistry,
    expected: bytes,
    monkeypatch: pytest.MonkeyPatch,
    stated: int | None,
    passed_s: float,
    is_renewed: bool,
) -> None:
    now_s = [5000.0]
    monkeypatch.setattr(
        "dimgx.sources.tokens.time", SimpleNamespace(monotonic=lambda: now_s[0])
    )

    def time_passes(handler: Handler) -> bool:
        if "/manifests/" in handler.path and "Authorization" in handler.headers:
            now_s[0] += passed_s
        return False

    faulty.rules += [time_passes, wants_token(faulty, expires_in=stated)]
    assert flat(faulty.reference()) == expected
    assert len(token_queries(faulty)) == 1 + is_renewed
    # It was not found out by being refused.
    asked = [headers for path, headers in faulty.requests if not path.startswith("/token")]
    assert all("Authorization" in headers for headers in asked[1:])


def test_one_new_token_is_enough_for_all_that_wait(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    digests = tuple(map(sha256, APP.blobs("gzip")))
    all_asked = threading.Barrier(len(digests), timeout=20)
    answer = wants_token(faulty)

    def rule(handler: Handler) -> bool:
        if handler.path.endswith(digests) and "token-0" in handler.headers["Authorization"]:
            all_asked.wait()
            del handler.headers["Authorization"]
        return answer(handler)

    faulty.rules.append(rule)
    assert flat(faulty.reference()) == expected
    assert len(token_queries(faulty)) == 2


def test_token_that_never_helps(faulty: FaultyRegistry) -> None:
    faulty.rules.append(wants_token(faulty, uses=0))
    told = fault(faulty.reference(), SourceError)
    assert "401" in told and "no credentials" in told


def test_wrong_password_at_the_token_service(faulty: FaultyRegistry) -> None:
    faulty.rules.append(wants_token(faulty, check=lambda _: False))
    told = fault(faulty.reference(), SourceError, credentials=ANNA)
    assert f"user '{USER}'" in told and "401" in told


def test_identity_token(faulty: FaultyRegistry, expected: bytes) -> None:
    seen = []

    def check(handler: Handler) -> bool:
        seen.append((handler.command, parse_qs(handler.body().decode())))
        return True

    faulty.rules.append(wants_token(faulty, check=check))
    own = Credentials(identity_token="refresh-of-the-test", origin="a file")
    assert flat(faulty.reference(), credentials=own) == expected
    method, form = seen[0]
    assert method == "POST"
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["refresh-of-the-test"]
    assert form["scope"] == ["repository:app:pull"]


def test_registry_token(faulty: FaultyRegistry, expected: bytes) -> None:
    def rule(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == "Bearer own-of-the-test":
            return False
        handler.send(401, b"{}", WWW_Authenticate='Bearer realm="http://127.0.0.1:1/none"')
        return True

    faulty.rules.append(rule)
    own = Credentials(registry_token="own-of-the-test")
    assert flat(faulty.reference(), credentials=own) == expected
    other = Credentials(registry_token="other-of-the-test", origin="somewhere")
    assert "a token from somewhere" in fault(faulty.reference(), SourceError, credentials=other)


@pytest.mark.parametrize(
    "realm",
    [
        "http://token.example.com/t",
        "ftp://token.example.com/t",
        "token.example.com/t",
        "",
        "https://user:pa55@[::1/t",
        "https:///t",
        "http://[::1/t",
        "file:///etc/passwd",
    ],
)
def test_realm_that_is_no_https_url(faulty: FaultyRegistry, realm: str) -> None:
    faulty.rules.append(wants_token(faulty, realm=realm or "%"))
    told = fault(faulty.reference(), SourceError, credentials=ANNA)
    assert "no https URL" in told and "pa55" not in told


def test_realm_with_a_user_of_its_own(faulty: FaultyRegistry) -> None:
    realm = f"https://user:{PASSWORD}@token.example.com/t/of-the-test?x=y"
    faulty.rules.append(wants_token(faulty, realm=realm))
    told = fault(faulty.reference(), SourceError, credentials=ANNA)
    where = "a token from 'https://token.example.com' with a user of its own choice"
    assert f"{faulty.host} wants {where}" in told and "user:" not in told


def test_realm_with_a_query_of_its_own(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(wants_token(faulty, realm=f"http://{faulty.host}/token?tenant=7&x=%2F"))
    assert flat(faulty.reference()) == expected
    assert token_queries(faulty) == [
        {"tenant": ["7"], "x": ["/"], "service": ["test"], "scope": ["repository:app:pull"]}
    ]


@pytest.mark.parametrize(
    ("challenge", "schemes"),
    [({}, "none"), ({"WWW_Authenticate": 'Negotiate, Digest realm="x"'}, "negotiate, digest")],
)
def test_challenge_that_cannot_be_met(
    faulty: FaultyRegistry, challenge: dict[str, str], schemes: str
) -> None:
    faulty.rules.append(fails(401, times=9, **challenge))
    told = fault(faulty.reference(), SourceError, credentials=ANNA)
    assert "is refused (401)" in told
    assert f"it asks in a way that is not known ({schemes}), so user '{USER}' from" in told
    assert told.endswith("was not sent")
    assert len(faulty.requests) == 1


def test_what_was_sent_is_said_to_have_been_tried(faulty: FaultyRegistry) -> None:
    faulty.rules.append(fails(401, times=9, WWW_Authenticate="Negotiate"))
    own = Credentials(registry_token="own-of-the-test", origin="x")
    assert "tried was a token from x" in fault(faulty.reference(), SourceError, credentials=own)
    assert faulty.requests[0][1]["Authorization"] == "Bearer own-of-the-test"


TOKEN = b"token-of-the-test"


def answers_for_token(faulty: FaultyRegistry, status: int, body: bytes, **headers: str) -> Rule:
    """Ask for TOKEN, which `body` may hold; no service is named."""

    def rule(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            handler.send(status, body, **headers)
        elif handler.headers.get("Authorization") == f"Bearer {TOKEN.decode()}":
            return False
        else:
            realm = f"http://{faulty.host}/token"
            handler.send(401, b"{}", WWW_Authenticate=f'Bearer realm="{realm}"')
        return True

    return rule


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"access_token": "%b"}' % TOKEN, {}),
        # Short as it is, it is longer than what it stands for.
        (gzip.compress(b'{"token": "%b"}' % TOKEN, mtime=0), {"Content_Encoding": "gzip"}),
    ],
    ids=["access-token", "gzip"],
)
def test_forms_of_a_token_services_answer(
    faulty: FaultyRegistry, expected: bytes, body: bytes, headers: dict[str, str]
) -> None:
    faulty.rules.append(answers_for_token(faulty, 200, body, **headers))
    assert flat(faulty.reference()) == expected
    assert token_queries(faulty) == [{"scope": ["repository:app:pull"]}]


def test_token_service_that_answers_something_else(faulty: FaultyRegistry) -> None:
    faulty.rules.append(answers_for_token(faulty, 418, b"{}"))
    told = fault(faulty.reference(), SourceError)
    assert told == f"the token service {faulty.host} answers with status 418"


def test_failing_token_service(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules += [fails(503, times=2, part="/token", Retry_After="0"), wants_token(faulty)]
    assert flat(faulty.reference()) == expected
    faulty.rules[0] = fails(408, part="/token", Retry_After="0")
    assert flat(faulty.reference()) == expected
    faulty.rules[0] = fails(429, times=99, part="/token", Retry_After="900")
    assert "come back in 900 s" in fault(faulty.reference(), TemporaryError)


def test_token_service_that_is_not_there(faulty: FaultyRegistry) -> None:
    challenge = 'Bearer realm="https://nowhere.invalid/token"'
    faulty.rules.append(fails(401, times=9, WWW_Authenticate=challenge))
    told = fault(faulty.reference(), SourceError)
    named = f"the token service that {faulty.host} names: there is no host nowhere.invalid: "
    assert told.startswith(named), told


@pytest.mark.parametrize(
    "answer", [b"", b"no", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nb: c"}']
)
def test_token_service_that_makes_no_sense(faulty: FaultyRegistry, answer: bytes) -> None:
    def rule(handler: Handler) -> bool:
        if not handler.path.startswith("/token"):
            return False
        handler.send(200, answer)
        return True

    faulty.rules += [rule, wants_token(faulty)]
    assert "token service" in fault(faulty.reference(), SourceError)


# -- basic ---------------------------------------------------------------------------------------


def test_basic(faulty: FaultyRegistry, expected: bytes) -> None:
    faulty.rules.append(wants_password)
    assert flat(faulty.reference(), credentials=ANNA) == expected
    told = fault(faulty.reference(), SourceError, credentials=Credentials(USER, "no", origin="x"))
    assert f"user '{USER}' from x" in told
    told = fault(faulty.reference(), SourceError)
    assert "no credentials for it were found" in told and "a name that they do not have" in told


def test_no_password_is_made_up_for_a_token(faulty: FaultyRegistry) -> None:
    faulty.rules.append(wants_password)
    own = Credentials(identity_token="identity-of-the-test", origin="x")
    told = fault(faulty.reference(), SourceError, credentials=own)
    assert "it asks for a password, so a token from x was not sent" in told
    assert not any("Authorization" in headers for _, headers in faulty.requests)


@pytest.mark.parametrize(
    ("own", "challenge"),
    [
        (ANNA, 'Basic realm="x"'),
        (Credentials(registry_token="own-of-the-test"), 'Bearer realm="http://127.0.0.1:1/t"'),
    ],
)
def test_what_is_refused_for_one_blob_is_not_sent_again(
    faulty: FaultyRegistry, own: Credentials, challenge: str
) -> None:
    low = f"/blobs/sha256:{sha256(APP.blobs('gzip')[0])}"

    def rule(handler: Handler) -> bool:
        is_let_in = "Authorization" in handler.headers and low not in handler.path
        if not is_let_in:
            handler.send(401, b"{}", WWW_Authenticate=challenge)
        return not is_let_in

    faulty.rules.append(rule)
    assert "is refused (401)" in fault(faulty.reference(), SourceError, credentials=own)
    assert sum(low in path for path, _ in faulty.requests) == 1


def test_forbidden(faulty: FaultyRegistry) -> None:
    def rule(handler: Handler) -> bool:
        said = {"errors": [{"code": "DENIED", "message": handler.headers["Authorization"]}]}
        handler.send(403, to_json(said))
        return True

    faulty.rules += [wants_password, rule]
    told = fault(faulty.reference(), SourceError, credentials=ANNA)
    assert "403" in told and "DENIED" in told
    assert pair(USER, PASSWORD) not in told  # though the registry repeats it


def test_secrets_are_in_no_representation() -> None:
    own = Credentials(USER, PASSWORD, "identity-of-the-test", "token-of-the-test")
    for text in (repr(own), str(own), repr(RegistryOptions(credentials=own))):
        assert PASSWORD not in text and "of-the-test" not in text


# -- files ---------------------------------------------------------------------------------------


def found_in(
    tmp_path: Path, document: Json, domain: str, path: str = "o/n", name: str = "config.json"
) -> tuple[Credentials | None, list[str]]:
    place = tmp_path / name
    place.write_bytes(to_json(document))
    warnings: list[str] = []
    found = find_credentials([str(tmp_path / "none"), str(place)], domain, path, warnings.append)
    return found, warnings


@pytest.mark.parametrize(
    ("key", "domain"),
    [
        ("quay.io", "quay.io"),
        ("https://quay.io", "quay.io"),
        ("https://quay.io/v2/", "quay.io"),
        ("http://quay.io/v1/", "quay.io"),
        ("quay.io/o", "quay.io"),
        ("quay.io/o/n", "quay.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io/o", "docker.io"),
        ("localhost:5000", "localhost:5000"),
    ],
)
def test_keys_that_fit(tmp_path: Path, key: str, domain: str) -> None:
    found, warnings = found_in(tmp_path, {"auths": {key: {"auth": pair("u", "p:q")}}}, domain)
    assert found is not None and (found.user, found.password) == ("u", "p:q")
    assert str(tmp_path) in str(found) and not warnings


@pytest.mark.parametrize("key", ["quay.io:443", "io", "quay.i", "quay.io/other", "quay.io/o/n2"])
def test_keys_that_do_not_fit(tmp_path: Path, key: str) -> None:
    found, _ = found_in(tmp_path, {"auths": {key: {"auth": pair("u", "p")}}}, "quay.io")
    assert found is None


def test_longest_key_counts(tmp_path: Path) -> None:
    auths = {key: {"auth": pair(key, "p")} for key in ("h.io", "h.io/a/b", "h.io/a", "h.io/a/b/c")}
    for path, user in (("a/b", "h.io/a/b"), ("a/x", "h.io/a"), ("x", "h.io")):
        found, _ = found_in(tmp_path, {"auths": auths}, "h.io", path)
        assert found is not None and found.user == user


@pytest.mark.parametrize("order", [1, -1])
def test_plain_key_counts_before_an_old_one(tmp_path: Path, order: int) -> None:
    keys = ("https://h.io/v1/", "h.io")[::order]
    auths = {key: {"auth": pair(key.replace(":", ""), "p")} for key in keys}
    found, _ = found_in(tmp_path, {"auths": auths}, "h.io")
    assert found is not None and found.user == "h.io"


def test_forms_of_an_entry(tmp_path: Path) -> None:
    for entry, expected in (
        ({"identitytoken": "t"}, Credentials("", "", "t", "")),
        ({"auth": pair("<token>", ""), "identitytoken": "t"}, Credentials("", "", "t", "")),
        ({"auth": pair("u", ""), "identitytoken": "t"}, Credentials("u", "", "t", "")),
        ({"username": "u", "password": "p"}, Credentials("u", "p", "", "")),
        ({"auth": "dTpw\r\ncDpw\n"}, Credentials("u", "pp:p", "", "")),
        ({"auth": pair("u", "p\0\0")}, Credentials("u", "p", "", "")),
        ({"registrytoken": "r"}, Credentials("", "", "", "r")),
        ({}, None),
    ):
        found, _ = found_in(tmp_path, {"auths": {"h.io": entry}}, "h.io")
        if expected is None:
            assert found is None
        else:
            assert found is not None
            assert (found.user, found.password, found.identity_token, found.registry_token) == (
                expected.user, expected.password, expected.identity_token, expected.registry_token,
            )  # fmt: skip


def test_oldest_form(tmp_path: Path) -> None:
    document = {"https://h.io/v1/": {"auth": pair("u", "p"), "email": "x@y"}}
    found, _ = found_in(tmp_path, document, "h.io", name=".dockercfg")
    assert found is not None and found.user == "u"
    assert found_in(tmp_path, document, "h.io")[0] is None
    newer = {"auths": document}
    assert found_in(tmp_path, newer, "h.io", name=".dockercfg")[0] == found


def test_entry_that_holds_nothing_is_passed_over(tmp_path: Path) -> None:
    auths = {"h.io/o": {}, "other.io": None, "h.io": {"auth": pair("u", "p")}}
    found, warnings = found_in(tmp_path, {"auths": auths}, "h.io")
    assert found is not None and found.user == "u" and not warnings


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "[]",
        '{"auths": {"h.io": {"auth": "%%%"}}}',
        '{"auths": {"h.io": {"auth": "dTpw!"}}}',
        '{"auths": {"h.io": {"auth": 5}}}',
        '{"auths": {"h.io": {"auth": "\u00e9\u00e9"}}}',
    ],
)
def test_damaged_files(tmp_path: Path, data: str) -> None:
    place = tmp_path / "config.json"
    place.write_text(data)
    with pytest.raises(SourceError, match=r"credentials: .*config\.json"):
        find_credentials([str(place)], "h.io", "n", print)


def test_file_that_cannot_be_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "auth.json").mkdir()
    found, warnings = found_in(tmp_path, {"auths": {"h.io": {"auth": pair("u", "p")}}}, "h.io")
    assert found is not None
    names = ("auth.json", "config.json/none", "config.json")
    files = [str(tmp_path / name) for name in names]
    assert find_credentials(files, "h.io", "n", warnings.append) == found
    assert warnings == [f"the credentials in {files[0]} cannot be read: Is a directory"]


@pytest.mark.parametrize("data", ["", " \n"])
def test_empty_file_is_passed_over(tmp_path: Path, data: str) -> None:
    place = tmp_path / "config.json"
    place.write_text(data)
    assert find_credentials([str(place)], "h.io", "n", print) is None


# -- helpers -------------------------------------------------------------------------------------


def make_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    place = tmp_path / "bin"
    place.mkdir(exist_ok=True)
    program = place / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")


def answers(user: str, secret: str) -> str:
    return f"read server; echo '{json.dumps({'Username': user, 'Secret': secret})}'"


def test_helper_for_a_host_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_helper(tmp_path, monkeypatch, "one", answers("helped", "p"))
    make_helper(tmp_path, monkeypatch, "two", answers("stored", "p"))
    document = {
        "credHelpers": {"h.io": "one"},
        "credsStore": "two",
        "auths": {"h.io": {"auth": pair("kept", "p")}, "i.io": {}},
    }
    for domain, user in (("h.io", "helped"), ("i.io", "stored")):
        found, warnings = found_in(tmp_path, document, domain)
        assert found is not None and found.user == user and not warnings


def test_host_with_an_empty_helper_is_looked_up_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_helper(tmp_path, monkeypatch, "one", answers("stored", "p"))
    auths = {"h.io": {"auth": pair("kept", "p")}}
    document = {"credHelpers": {"h.io": ""}, "credsStore": "one", "auths": auths}
    found, warnings = found_in(tmp_path, document, "h.io")
    assert found is not None and found.user == "kept" and not warnings


def test_helper_with_an_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_helper(tmp_path, monkeypatch, "one", answers("<token>", "refresh"))
    found, _ = found_in(tmp_path, {"credsStore": "one"}, "h.io")
    assert found is not None
    assert (found.user, found.identity_token) == ("", "refresh")


def test_helper_is_asked_for_docker_hub_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = "echo 'credentials not found'; exit 1"
    for server in ("https://index.docker.io/v1/", "docker.io"):
        script = f'read s; [ "$s" = {server} ] || {{ {unknown}; }}; ' + answers("u", "p")[13:]
        make_helper(tmp_path, monkeypatch, "one", script)
        found, warnings = found_in(tmp_path, {"credsStore": "one"}, "docker.io")
        assert found is not None and found.user == "u" and not warnings
    make_helper(tmp_path, monkeypatch, "one", "exit 3")
    found, (told,) = found_in(tmp_path, {"credsStore": "one"}, "docker.io")
    assert found is None and told.endswith("failed for docker.io")


@pytest.mark.parametrize(
    ("script", "warning"),
    [
        (None, "not installed"),
        ("echo broken >&2; exit 3", "failed"),
        ("echo 'no json, but s3cret'", "no JSON"),
        ("echo 'credentials not found in native keychain'; exit 1", ""),
        ("echo 'Not Found'; exit 1", ""),
    ],
)
def test_helper_that_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, warning: str
) -> None:
    make_helper(tmp_path, monkeypatch, "there", "exit 0")
    if script is not None:
        make_helper(tmp_path, monkeypatch, "one", script)
    document = {"credsStore": "one", "auths": {"h.io": {"auth": pair("kept", "p")}}}
    found, warnings = found_in(tmp_path, document, "h.io")
    assert found is not None and found.user == "kept"
    assert [warning in text for text in warnings] == ([True] if warning else [])
    assert "s3cret" not in "".join(warnings)


def test_helper_that_cannot_be_run_or_never_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_helper(tmp_path, monkeypatch, "one", "exec sleep 60")
    monkeypatch.setattr("dimgx.sources.auth._HELPER_TIME_S", 0.1)
    program = tmp_path / "bin/docker-credential-one"
    for mode, reason in ((0o755, "it does not answer"), (0o644, "Permission denied")):
        program.chmod(mode)
        found, (told,) = found_in(tmp_path, {"credsStore": "one"}, "h.io")
        assert found is None
        assert told == f"{program.name}, which {tmp_path}/config.json names, failed: {reason}"


def test_helper_cannot_be_just_any_program(tmp_path: Path) -> None:
    found, (told,) = found_in(tmp_path, {"credsStore": "/../../bin/sh"}, "h.io")
    assert found is None and "no name of a credential helper" in told


def test_missing_helper_warns_and_goes_on(faulty: FaultyRegistry, tmp_path: Path) -> None:
    place = tmp_path / "config.json"
    document = {"credsStore": "not-there-at-all",
                "auths": {faulty.host: {"auth": pair(USER, PASSWORD)}}}  # fmt: skip
    place.write_bytes(to_json(document))
    faulty.rules.append(wants_password)
    import dimgx

    options = RegistryOptions(auth_files=(str(place),))
    with dimgx.open_image(faulty.reference(), platform="linux/amd64", registry=options) as found:
        assert "not installed" in found.warnings[0]


def test_missing_file_is_told_where_credentials_lack(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    faulty.rules.append(wants_password)
    found = RegistryOptions.from_environment({"REGISTRY_AUTH_FILE": str(tmp_path / "none")})

    def told(*files: str, **more: Any) -> str:
        return fault(faulty.reference(), SourceError, auth_files=files, **more)

    missing = f"there is no file {tmp_path / 'none'}"
    assert missing in told(*found.auth_files)
    assert missing not in told(*found.auth_files, credentials=Credentials(USER, "no"))
    (tmp_path / "none").write_text("{}")
    assert missing not in told(*found.auth_files)


def test_missing_helper_is_told_where_credentials_lack(
    faulty: FaultyRegistry, tmp_path: Path
) -> None:
    place = tmp_path / "config.json"
    place.write_bytes(to_json({"credsStore": "not-there-at-all"}))
    faulty.rules.append(wants_password)
    told = fault(faulty.reference(), SourceError, auth_files=(str(place),))
    assert "docker-credential-not-there-at-all" in told and "not installed" in told


# -- the environment -----------------------------------------------------------------------------


def test_places_of_files() -> None:
    home = {"HOME": "/h", "XDG_RUNTIME_DIR": "/r"}
    last = "/h/.dockercfg"
    run = f"/run/containers/{os.getuid()}"
    # Where it is not there, or closed, it is not looked into, which would only be warned of.
    first = (f"{run}/auth.json",) if os.path.isdir(run) else ()
    cases = [
        ({"HOME": "/h"}, (*first, "/h/.config/containers/auth.json", "/h/.docker/config.json",
                          last)),
        (home, ("/r/containers/auth.json", "/h/.config/containers/auth.json",
                "/h/.docker/config.json", last)),
        (home | {"DOCKER_CONFIG": "/d"}, ("/r/containers/auth.json",
                                          "/h/.config/containers/auth.json", "/d/config.json",
                                          last)),
        (home | {"XDG_CONFIG_HOME": "/c"}, ("/r/containers/auth.json", "/c/containers/auth.json",
                                            "/h/.docker/config.json", last)),
        (home | {"REGISTRY_AUTH_FILE": "/a"}, ("/a",)),
    ]  # fmt: skip
    for environ, files in cases:
        assert RegistryOptions.from_environment(environ).auth_files == files
    assert RegistryOptions.from_environment({}).credentials is None


# -- what is asked of whom -------------------------------------------------------------------------


def with_challenge(tokens: Rule, change: Callable[[str], str]) -> Rule:
    """Give a rule whose challenges are others."""

    def rule(handler: Handler) -> bool:
        send = handler.send

        def changed(status: int, data: bytes = b"", **headers: str) -> None:
            if "WWW_Authenticate" in headers:
                headers["WWW_Authenticate"] = change(headers["WWW_Authenticate"])
            send(status, data, **headers)

        handler.send = changed  # type: ignore[method-assign]
        return bool(tokens(handler))

    return rule


@pytest.mark.parametrize(
    ("before", "after", "scope"),
    [
        (',scope="repository:app:pull"', "", "repository:app:pull"),
        ("repository:app:pull", "repository:proxy/app:pull", "repository:proxy/app:pull"),
    ],
)
def test_the_scope_is_the_challenges_or_else_to_pull(
    faulty: FaultyRegistry, before: str, after: str, scope: str
) -> None:
    asked: list[str] = []

    def change(challenge: str) -> str:
        assert before in challenge
        return challenge.replace(before, after)

    def check(handler: Handler) -> bool:
        asked.append(handler.path)
        return True

    faulty.rules.append(with_challenge(wants_token(faulty, check=check), change))
    flat(faulty.reference())
    assert parse_qs(urlsplit(asked[0]).query)["scope"] == [scope]


def test_without_credentials_the_challenge_that_needs_none_counts(
    faulty: FaultyRegistry, expected: bytes
) -> None:
    faulty.rules.append(with_challenge(wants_token(faulty), 'Basic realm="x", '.__add__))
    assert flat(faulty.reference()) == expected


def test_another_port_gets_no_password(faulty: FaultyRegistry) -> None:
    with faulty_registry() as store:
        store.blobs |= faulty.blobs
        blob_store(store)
        faulty.rules += [wants_password, redirects(f"http://{store.host}")]
        flat(faulty.reference(), credentials=ANNA)
        assert store.requests
        assert not any("Authorization" in headers for _, headers in store.requests)


def test_no_token_service_sends_an_identity_token_on(faulty: FaultyRegistry) -> None:
    with faulty_registry() as other:

        def sends_on(handler: Handler) -> bool:
            if handler.path.startswith("/token"):
                handler.send(307, b"", Location=f"http://{other.host}/token")
                return True
            return False

        faulty.rules += [sends_on, wants_token(faulty)]
        credentials = Credentials(identity_token="secret")
        told = fault(faulty.reference(), SourceError, credentials=credentials)
        assert "redirects a POST" in told
        assert not other.requests


def test_a_password_that_a_registry_repeats_is_not_shown(faulty: FaultyRegistry) -> None:
    def repeats(handler: Handler) -> bool:
        problem = {"code": "DENIED", "message": f"no {PASSWORD} here"}
        handler.send(403, to_json({"errors": [problem]}))
        return True

    faulty.rules += [wants_password, repeats]
    assert "no *** here" in fault(faulty.reference(), SourceError, credentials=ANNA)


def test_a_helper_is_asked_for_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = answers("u", "p").replace("; echo", '; [ "$server" = h.io ] && echo')
    make_helper(tmp_path, monkeypatch, "one", script)
    found, _ = found_in(tmp_path, {"credsStore": "one"}, "h.io")
    assert found is not None and found.user == "u"


def test_a_stored_secret_without_a_user(tmp_path: Path) -> None:
    secret = base64.b64encode(b"token").decode()
    with pytest.raises(SourceError, match="holds no user and password"):
        found_in(tmp_path, {"auths": {"h.io": {"auth": secret}}}, "h.io")
