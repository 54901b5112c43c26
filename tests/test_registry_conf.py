"""Where registries are looked for, through what, and whom is trusted on the way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import dimgx
from dimgx import Credentials, Proxies, RegistryOptions, SourceError, TemporaryError
from dimgx.imagename import parse_image_name
from dimgx.sources.proxies import find_proxy
from dimgx.sources.registriesconf import RegistryEndpoint, find_endpoints
from tests.dsl import file, layer
from tests.programs import need, run
from tests.registries import (
    PASSWORD,
    USER,
    Authority,
    FaultyRegistry,
    Handler,
    fails,
    fault,
    faulty_registry,
    flat,
    make_authority,
    wants_password,
    wants_token,
)
from tests.test_registry_faults import blob_store, redirects
from tests.writers import image

APP = image(layer(file("a", b"a")))
D = "sha256:" + "0" * 64

CONF = """
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
location = "internal.example.net/bar"

[[registry.mirror]]
location = "mirror-0.local/for-foo"

[[registry.mirror]]
location = "mirror-1.local/mirrors/foo"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
prefix = "example.com"
insecure = true

[[registry]]
location = "blocked.com/bad"
blocked = true

[[registry]]
prefix = "*.wild.com"
insecure = true

[[registry]]
prefix = "*.deep.wild.com"
location = "deep.com"

[[registry]]
prefix = "*.tie.com"
insecure = true

[[registry]]
prefix = "a.tie.com"
location = "b.com"

[[registry]]
prefix = "tagged.com/n:1"
location = "other.com/m"

[[registry]]
prefix = "slash.com/"
location = "https://end.com/below/"
mirror = [{location = "http://near.com/"}, {insecure = true}, {location = ""}]

[[registry]]
prefix = "*.moving.com"
location = "new.com/below"

[[registry]]
prefix = "moved.wild.com"
location = "new.com:5000/old"
mirror-by-digest-only = true
mirror = [{location = "near.com"}]

[[registry]]
location = "docker.io"
mirror = [{location = "hub.local"}]
"""


def spell(places: list[RegistryEndpoint]) -> list[str]:
    return [
        f"{p.domain}/{p.path}{' insecure' * p.is_insecure}{' mirror' * p.is_mirror}" for p in places
    ]


def endpoints(name: str, *files: Path, daemon: Path | None = None, **more: bool) -> list[str]:
    options = RegistryOptions(
        conf_files=tuple(map(str, files)),
        daemon_files=(str(daemon),) if daemon else (),
        tls_verify=more.get("tls_verify"),
    )
    return spell(find_endpoints(options, parse_image_name(name), print))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "registries.conf"
    path.write_text(CONF)
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("other.com/n", ["other.com/n"]),
        ("example.com/n", ["example.com/n insecure"]),
        ("example.com:5000/n", ["example.com:5000/n insecure"]),
        ("example.community/n", ["example.community/n"]),
        ("example.com/foo/image:latest",
         ["mirror-0.local/for-foo/image mirror", "internal.example.net/bar/image"]),
        (f"example.com/foo/image@{D}",
         ["mirror-0.local/for-foo/image mirror", "mirror-1.local/mirrors/foo/image insecure mirror",
          "internal.example.net/bar/image"]),
        ("example.com/foo", ["mirror-0.local/for-foo mirror", "internal.example.net/bar"]),
        ("example.com/foobar", ["example.com/foobar insecure"]),
        ("a.b.wild.com/n", ["a.b.wild.com/n insecure"]),
        ("a.wild.com:99/n", ["a.wild.com:99/n insecure"]),
        ("wild.com/n", ["wild.com/n"]),
        ("slash.com/n", ["near.com/n mirror", "end.com/below/n"]),
        ("x.deep.wild.com/n", ["deep.com/n"]),
        ("a.tie.com/n", ["b.com/n"]),
        ("tagged.com/n:1", ["other.com/m"]),
        ("tagged.com/n:12", ["tagged.com/n"]),
        ("a.moving.com:99/o/n", ["new.com/below/o/n"]),
        ("moved.wild.com/n", ["new.com:5000/old/n"]),
        (f"moved.wild.com/n@{D}", ["near.com/n mirror", "new.com:5000/old/n"]),
        ("debian", ["hub.local/library/debian mirror", "docker.io/library/debian"]),
    ],
)  # fmt: skip
def test_tables_of_registries_conf(conf: Path, name: str, expected: list[str]) -> None:
    assert endpoints(name, conf) == expected


def test_blocked(conf: Path) -> None:
    for name in ("blocked.com/bad", "blocked.com/bad/n", "blocked.com/bad:1"):
        with pytest.raises(SourceError, match="is blocked by"):
            endpoints(name, conf)
    assert endpoints("blocked.com/badly", conf) == ["blocked.com/badly"]


def test_tls_verify_counts_for_all(conf: Path) -> None:
    assert endpoints("example.com/n", conf, tls_verify=True) == ["example.com/n"]
    assert endpoints("other.com/n", conf, tls_verify=False) == ["other.com/n insecure"]


def test_drop_ins_replace_tables(conf: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.conf"
    later.write_text('[[registry]]\nprefix = "example.com"\nlocation = "c.com"\n')
    assert endpoints("example.com/n", conf, later) == ["c.com/n"]


@pytest.mark.parametrize(
    "text",
    ["[[registry]", "[registry]\nprefix = 'x'", "[[registry]]\ninsecure = 1\nlocation = 'x'",
     "[[registry]]\ninsecure = true", "[[registry]]\nprefix = 5", "registry = [1]",
     "[[registry]]\nprefix = '*.x.com/bad'\nblocked = true",
     "[[registry]]\nprefix = '*.x.com:5000'\nblocked = true",
     "[[registry]]\nprefix = 'https://x.com'\nblocked = true",
     "[[registry]]\nlocation = 'x.com'\n"
     "mirror = [{location = 'm', pull-from-mirror = 'digest_only'}]"],
)  # fmt: skip
def test_malformed_registries_conf(tmp_path: Path, text: str) -> None:
    path = tmp_path / "registries.conf"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"registries\.conf"):
        endpoints("x.com/n", path)


def test_registries_conf_that_cannot_be_read_is_a_warning(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "old.conf").write_text(
        '[registries.insecure]\nregistries = ["x.com"]\n'
        '[[registry]]\nlocation = "x.com"\nblocked = true\n'
    )
    names = ("none", "old.conf/none", "place", "old.conf", conf.name)
    options = RegistryOptions(conf_files=tuple(str(tmp_path / name) for name in names))
    warnings: list[str] = []
    found = find_endpoints(options, parse_image_name("x.com/n"), warnings.append)
    assert spell(found) == ["x.com/n"]
    assert warnings == [
        f"{tmp_path}/place cannot be read, so what it says of registries is not known:"
        " Is a directory",
        f"{tmp_path}/old.conf is of the old version 1, which is not read",
    ]
    with pytest.raises(SourceError, match="is blocked by"):
        find_endpoints(options, parse_image_name("blocked.com/bad"), print)
    conf.write_text("#" * (4 << 20))
    assert endpoints("blocked.com/bad", conf) == ["blocked.com/bad"]
    conf.write_text("#" * ((4 << 20) + 1))
    with pytest.raises(SourceError, match="more than the 4194304 bytes"):
        endpoints("blocked.com/bad", conf)


@pytest.mark.parametrize("location", ["[bad", "[1::2::3]:5000/x", "two words", "h.io:port/x", "/x"])
def test_location_that_is_no_place(tmp_path: Path, location: str) -> None:
    path = tmp_path / "registries.conf"
    for head in ('prefix = "h.io"\n', 'location = "h.io"\n[[registry.mirror]]\n'):
        path.write_text(f'[[registry]]\n{head}location = "{location}"')
        with pytest.raises(SourceError, match=r"registries\.conf: the location"):
            endpoints("h.io/n", path)


def test_settings_of_the_docker_daemon(tmp_path: Path, conf: Path) -> None:
    daemon = tmp_path / "daemon.json"
    daemon.write_text(
        '{"registry-mirrors": ["https://m.local/", "http://n.local:5000/sub", "o.local:5001"],'
        ' "insecure-registries": ["in.local:5000", "10.0.0.0/8", "http://plain.local"]}'
    )
    hub = ["m.local/library/debian mirror", "n.local:5000/sub/library/debian mirror",
           "o.local:5001/library/debian mirror", "docker.io/library/debian"]  # fmt: skip
    assert endpoints("debian", daemon=daemon) == hub
    assert endpoints("quay.io/n", daemon=daemon) == ["quay.io/n"]
    for host in ("in.local:5000", "10.1.2.3:5000", "10.1.2.3", "plain.local", "plain.local:80"):
        assert endpoints(f"{host}/n", daemon=daemon) == [f"{host}/n insecure"]
    for host in ("in.local", "in.local:5001", "11.1.2.3"):
        assert endpoints(f"{host}/n", daemon=daemon) == [f"{host}/n"]
    # A table that names mirrors itself counts more.
    assert endpoints("debian", conf, daemon=daemon) == [
        "hub.local/library/debian mirror", "docker.io/library/debian"
    ]  # fmt: skip


def test_docker_hub_is_never_insecure(tmp_path: Path) -> None:
    """As Docker has it, whose setting it is."""
    daemon = tmp_path / "daemon.json"
    daemon.write_text('{"insecure-registries": ["docker.io", "registry-1.docker.io", "0.0.0.0/0"]}')
    assert endpoints("debian", daemon=daemon) == ["docker.io/library/debian"]


def test_of_two_tables_with_one_prefix_the_first_counts(tmp_path: Path) -> None:
    paths = [tmp_path / "1.conf", tmp_path / "2.conf"]
    for path in paths:
        tables = [f'[[registry]]\nprefix = "x.com"\nlocation = "{path.stem}-{n}.com"\n'
                  for n in range(2)]  # fmt: skip
        path.write_text("".join(tables))
    assert endpoints("x.com/n", paths[0]) == ["1-0.com/n"]
    assert endpoints("x.com/n", *paths) == ["2-0.com/n"]


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    daemon = tmp_path / "daemon.json"
    daemon.mkdir()
    assert endpoints("x.com/n", daemon=daemon) == ["x.com/n"]
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(SourceError, match=r"broken\.json"):
        endpoints("x.com/n", daemon=broken)
    for mirror in ("http://[::1", "ftp://mirror.local", "https://", "https://m.local:port"):
        broken.write_text(f'{{"registry-mirrors": ["{mirror}"]}}')
        with pytest.raises(SourceError, match="no http or https URL"):
            endpoints("debian", daemon=broken)


def test_first_settings_of_a_docker_daemon_that_say_something_count(tmp_path: Path) -> None:
    texts = (" ", '{"insecure-registries": ["x.com"]}', '{"insecure-registries": ["y.com"]}')
    files = [tmp_path / f"daemon{number}.json" for number in range(4)]
    for file_, text in zip(files[1:], texts, strict=True):
        file_.write_text(text)
    options = RegistryOptions(daemon_files=tuple(map(str, files)))
    for host, is_insecure in (("x.com", True), ("y.com", False)):
        (found,) = find_endpoints(options, parse_image_name(f"{host}/n"), print)
        assert found.is_insecure == is_insecure


def test_which_files_count(tmp_path: Path) -> None:
    own = tmp_path / ".config/containers"
    (own / "registries.conf.d").mkdir(parents=True)
    for name in ("10-a.conf", "05-b.conf", "no.txt"):
        (own / "registries.conf.d" / name).touch()
    drop_ins = tuple(str(own / "registries.conf.d" / name) for name in ("05-b.conf", "10-a.conf"))
    environ = {"HOME": str(tmp_path)}
    found = RegistryOptions.from_environment(environ).conf_files
    assert found[0] == "/etc/containers/registries.conf" and found[-2:] == drop_ins
    (own / "registries.conf").touch()
    found = RegistryOptions.from_environment(environ).conf_files
    assert found == (str(own / "registries.conf"), *drop_ins)
    environ["CONTAINERS_REGISTRIES_CONF"] = "/x"
    assert RegistryOptions.from_environment(environ).conf_files == ("/x",)


# -- mirrors at work -----------------------------------------------------------------------------


@pytest.fixture
def faulty() -> Iterator[FaultyRegistry]:
    with faulty_registry() as registry:
        registry.add(APP)
        yield registry


def mirrored(tmp_path: Path, mirror: str, host: str) -> tuple[str, ...]:
    path = tmp_path / "registries.conf"
    path.write_text(
        f'[[registry]]\nprefix = "{host}"\nlocation = "{host}"\n'
        f'mirror = [{{location = "{mirror}", insecure = true}}]\n'
    )
    return (str(path),)


def test_mirror_serves_all(faulty: FaultyRegistry, tmp_path: Path) -> None:
    with faulty_registry() as mirror:
        mirror.add(APP)
        conf = mirrored(tmp_path, mirror.host, faulty.host)
        assert flat(faulty.reference(), conf_files=conf)
        assert len(mirror.requests) == 3 and not faulty.requests


def test_named_credentials_are_not_for_mirrors(faulty: FaultyRegistry, tmp_path: Path) -> None:
    with faulty_registry() as mirror:
        for registry in (mirror, faulty):
            registry.rules.append(wants_password)
        conf = mirrored(tmp_path, mirror.host, faulty.host)
        assert flat(faulty.reference(), conf_files=conf, credentials=Credentials(USER, PASSWORD))
        assert mirror.requests
        assert not any("Authorization" in headers for _, headers in mirror.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_mirror_of_the_docker_daemon_is_reached_as_its_url_says(
    faulty: FaultyRegistry, tmp_path: Path, scheme: str
) -> None:
    daemon = tmp_path / "daemon.json"
    daemon.write_text(f'{{"registry-mirrors": ["{scheme}://{faulty.host}/hub"]}}')
    # Docker Hub itself is out of reach.
    options = {"daemon_files": (str(daemon),), "proxies": Proxies(https="http://127.0.0.1:1")}
    if scheme == "http":
        assert flat("docker://app:1", **options) == flat(faulty.reference())
        assert faulty.requests[0][0] == "/v2/hub/library/app/manifests/1"
    else:
        told = fault("docker://app:1", TemporaryError, **options)
        assert f"(before that the mirror {faulty.host}/hub/library/app: " in told
        assert "does not speak TLS" in told and not faulty.requests


@pytest.mark.parametrize("trouble", ["empty", "failing", "closed"])
def test_mirror_that_does_not_help(faulty: FaultyRegistry, tmp_path: Path, trouble: str) -> None:
    with faulty_registry() as mirror:
        host = mirror.host
        if trouble == "failing":
            mirror.rules.append(fails(503, times=99))
        elif trouble == "closed":
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                host = f"127.0.0.1:{taken.getsockname()[1]}"
        options = RegistryOptions(conf_files=mirrored(tmp_path, host, faulty.host))
        with dimgx.open_image(
            faulty.reference(), platform="linux/amd64", registry=options
        ) as found:
            assert "passed over the mirror" in found.warnings[0] and host in found.warnings[0]
        assert len(mirror.requests) == (trouble != "closed")  # it is not tried again
        faulty.manifests.clear()
        told = fault(faulty.reference(), SourceError, conf_files=options.conf_files)
        assert "404" in told and host in told


# -- proxies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "host", "port", "is_proxied"),
    [
        ("", "h.io", 443, True),
        ("*", "h.io", 443, False),
        ("h.io", "h.io", 443, False),
        ("h.io", "a.h.io", 443, False),
        ("h.io", "ah.io", 443, True),
        (".h.io", "a.h.io", 443, False),
        (".h.io", "h.io", 443, True),
        ("*.h.io", "a.h.io", 443, False),
        ("h.io:5000", "h.io", 443, True),
        ("h.io:5000", "h.io", 5000, False),
        ("a.io, H.IO", "h.io", 443, False),
        ("a.io,h.io,b.io", "h.io", 443, False),
        ("h.io:https", "h.io", 443, True),
        ("h.io:\N{SUPERSCRIPT TWO}", "h.io", 443, True),
        ("h.io:" + "9" * 5000, "h.io", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, False),
        ("10.9.8.7/8", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "11.1.2.3", 443, True),
        ("h.io, .io, 10.1.2.300", "10.1.2.3", 443, True),
        ("10.1.2.3", "10.1.2.3", 443, False),
        ("fc00::/7", "fc00::1", 443, False),
        ("[fc00::1]:443", "fc00::1", 443, False),
        ("", "127.0.0.1", 443, False),
        ("", "localhost", 443, False),
        ("", "::1", 443, False),
    ],
)
def test_who_is_reached_through_a_proxy(
    rules: str, host: str, port: int, is_proxied: bool
) -> None:
    proxies = Proxies(https="http://proxy:3128", none=rules)
    assert find_proxy(proxies, "https", host, port) == (
        "http://proxy:3128" if is_proxied else None
    )


def test_proxies_of_the_environment() -> None:
    environ = {"HTTPS_PROXY": "http://a", "http_proxy": "http://b", "NO_PROXY": "c"}
    found = RegistryOptions.from_environment(environ).proxies
    assert (found.https, found.http, found.none) == ("http://a", "http://b", "c")
    assert RegistryOptions.from_environment({"ALL_PROXY": "p"}).proxies.http == "p"
    cgi = {"HTTP_PROXY": "http://visitor", "REQUEST_METHOD": "GET"}
    assert RegistryOptions.from_environment(cgi).proxies.http == ""
    small = {"no_proxy": "d", "NO_PROXY": "c", "http_proxy": "http://user:secret@b"}
    found = RegistryOptions.from_environment(small).proxies
    assert found.none == "d"
    assert "secret" not in repr(found)
    assert RegistryOptions.from_environment({}).proxies == Proxies()


@pytest.mark.parametrize(
    ("environ", "own"),
    [
        ({"HOME": "/h", "USERPROFILE": "/u"}, ("/h/.config/containers", "/h/.config/docker")),
        ({"USERPROFILE": "/u"}, ("/u/.config/containers", "/u/.config/docker")),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}, ("/h/.config/containers", "/c/docker")),
    ],
)
def test_places_of_certificates_and_of_dockers_settings(
    environ: dict[str, str], own: tuple[str, str]
) -> None:
    found = RegistryOptions.from_environment(environ)
    machines = ("/etc/containers/certs.d", "/etc/docker/certs.d")
    assert found.cert_roots == (f"{own[0]}/certs.d", *machines)
    assert found.daemon_files == ("/etc/docker/daemon.json", f"{own[1]}/daemon.json")


def test_without_a_home_nothing_is_looked_for_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registries.conf.d").mkdir()
    (tmp_path / "registries.conf.d" / "a.conf").touch()
    (tmp_path / "registries.conf").touch()
    monkeypatch.chdir(tmp_path)
    found = RegistryOptions.from_environment({})
    assert found.cert_roots == ("/etc/containers/certs.d", "/etc/docker/certs.d")
    assert found.daemon_files == ("/etc/docker/daemon.json",)
    assert found.ca_bundles == ()
    assert all(map(os.path.isabs, (*found.auth_files, *found.conf_files)))


def test_through_a_proxy(faulty: FaultyRegistry) -> None:
    def forward(handler: Handler) -> bool:
        # A proxy is asked with the whole URL.
        if not handler.path.startswith("http://registry.test/"):
            return False
        handler.path = handler.path.removeprefix("http://registry.test")
        faulty.answer(handler)
        return True

    with faulty_registry() as proxy:
        proxy.rules.append(forward)
        proxies = Proxies(http=f"http://user:pa55-word@{proxy.host}")
        own = "docker://registry.test/app:1"
        direct = flat(faulty.reference())
        # Plain http is what an insecure registry may speak; its https fails at this proxy.
        assert flat(own, proxies=proxies, tls_verify=False) == direct
        assert any("Proxy-Authorization" in headers for _, headers in proxy.requests)
    told = fault(own, TemporaryError, proxies=proxies, tls_verify=False, retry_time_s=0.2)
    assert "proxy" in told


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:1", "the proxy 127.0.0.1:1 to registry.test refuses the connection"),
        ("http://u:pa55-word@127.0.0.1:1", "the proxy 127.0.0.1:1 to registry.test refuses"),
        ("http://nobody.invalid:3128", "there is no host nobody.invalid:3128: check the proxy"),
        ("socks5h://u:pa55-word@127.0.0.1:1", "https is no http or https URL: set HTTPS_PROXY"),
        ("http://:3128", "no http or https URL"),
        ("http://a b:3128", "no http or https URL"),
        ("http://ex..ample:1", "no http or https URL"),
        ("127.0.0.1:port", "no http or https URL"),
    ],
)
def test_proxy_that_cannot_be_used(url: str, problem: str) -> None:
    kind = TemporaryError if "refuses" in problem else SourceError
    # None of these is worth a second try.
    told = fault("docker://registry.test/n", kind, proxies=Proxies(https=url), retry_time_s=600)
    assert problem in told


@pytest.mark.parametrize("status", [403, 407])
def test_proxy_that_does_not_let_us_through(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def refuse(handler: Handler) -> None:
        handler.send(status)

    monkeypatch.setattr(Handler, "do_CONNECT", refuse, raising=False)
    with faulty_registry() as proxy:
        options = {"proxies": Proxies(https=f"http://{proxy.host}"), "retry_time_s": 600}
        told = fault("docker://registry.test/n", SourceError, **options)
        assert f"the proxy {proxy.host} does not let us through to registry.test ({status})" in told


def test_proxy_that_does_not_let_plain_http_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: Handler) -> bool:
        handler.send(407)
        return True

    monkeypatch.setattr(Handler, "do_CONNECT", refuse, raising=False)
    with faulty_registry() as proxy:
        proxy.rules.append(refuse)
        proxies = Proxies(https=f"http://{proxy.host}", http=f"http://{proxy.host}")
        options = {"proxies": proxies, "tls_verify": False, "retry_time_s": 600}
        told = fault("docker://registry.test/n", SourceError, **options)
        assert f"the proxy {proxy.host} does not let us through to registry.test (407): put" in told
        assert any("http://" in path for path, _ in proxy.requests)


def test_passing_failure_of_plain_http_where_nobody_listens_for_tls(
    faulty: FaultyRegistry,
) -> None:
    def forward(handler: Handler) -> bool:
        handler.path = handler.path.removeprefix("http://registry.test")
        if len(proxy.requests) == 1:
            handler.cut()
        else:
            faulty.answer(handler)
        return True

    with faulty_registry() as proxy:
        proxy.rules.append(forward)
        proxies = Proxies(https="http://127.0.0.1:1", http=f"http://{proxy.host}")
        options = {"proxies": proxies, "tls_verify": False}
        assert flat("docker://registry.test/app:1", **options) == flat(faulty.reference())


def test_passing_failure_of_a_proxy(
    faulty: FaultyRegistry, authority: Authority, tmp_path: Path
) -> None:
    with faulty_registry(authority, tmp_path) as registry, tunnel(registry.host, 503) as (host, _):
        registry.add(APP)
        options = {
            "cert_dir": str(authority.directory),
            "proxies": Proxies(https=f"http://{host}"),
        }
        assert flat("docker://registry.test/app:1", **options) == flat(faulty.reference())


def test_proxy_that_does_not_speak_tls(faulty: FaultyRegistry) -> None:
    options = {"proxies": Proxies(https=f"https://{faulty.host}"), "retry_time_s": 600}
    told = fault("docker://registry.test/n", SourceError, **options)
    assert f"the proxy {faulty.host} does not speak TLS: begin its URL with http://" in told


def relay(one: socket.socket, other: socket.socket) -> None:
    """Pass on what comes from either to the other, in threads."""

    def work(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    for pair in ((one, other), (other, one)):
        threading.Thread(target=work, args=pair, daemon=True).start()


@contextmanager
def tunnel(target: str, *failures: int) -> Iterator[tuple[str, list[bytes]]]:
    """Run a proxy that connects whoever asks to `target`; give its host and what it was asked.

    The first requests are answered with `failures`.
    """
    left = list(failures)
    asked: list[bytes] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                client = stack.enter_context(server.accept()[0])
                asked.append(client.recv(65536))
                if left:
                    client.sendall(b"HTTP/1.1 %d No\r\n\r\n" % left.pop(0))
                    client.shutdown(socket.SHUT_RDWR)
                    continue
                name, _, port = target.partition(":")
                behind = stack.enter_context(socket.create_connection((name, int(port))))
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(client, behind)

    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_tls_through_a_proxy(authority: Authority, tmp_path: Path) -> None:
    with faulty_registry(authority, tmp_path) as registry, tunnel(registry.host) as (host, asked):
        registry.add(APP)
        registry.rules.append(wants_password)
        options = {
            "cert_dir": str(authority.directory),
            "credentials": Credentials(USER, PASSWORD),
            "proxies": Proxies(https=f"http://{host}"),
        }
        assert flat("docker://registry.test/app:1", **options) == flat(
            registry.reference(), **options
        )
        assert asked and all(one.startswith(b"CONNECT registry.test:443") for one in asked)
        assert not any(b"Authorization" in one for one in asked)
        told = fault("docker://other.test/app:1", SourceError, **options)
        assert "cannot be trusted" in told


# -- TLS -----------------------------------------------------------------------------------------


def test_client_certificate(authority: Authority, tmp_path: Path) -> None:
    with faulty_registry(authority, tmp_path, client_certificate=True) as registry:
        registry.add(APP)
        roots = (str(tmp_path / "certs.d"),)
        own = tmp_path / "certs.d" / registry.host
        own.mkdir(parents=True)
        (own / "ca.crt").write_bytes(authority.certificate.read_bytes())
        told = fault(registry.reference(), dimgx.DimgxError, cert_roots=roots, retry_time_s=0.2)
        assert registry.host in told
        certificate, key = authority.issue(tmp_path / "own", "me", "DNS:me")
        (own / "me.cert").write_bytes(certificate.read_bytes())
        told = fault(registry.reference(), SourceError, cert_roots=roots)
        assert "me.key is missing" in told
        (own / "me.key").write_bytes(key.read_bytes())
        assert flat(registry.reference(), cert_roots=roots)


def test_certificates_for_docker_hub(authority: Authority, tmp_path: Path) -> None:
    with (
        faulty_registry(authority, tmp_path, client_certificate=True) as registry,
        tunnel(registry.host) as (host, asked),
    ):
        registry.add(APP)
        own = tmp_path / "certs.d" / "docker.io"
        own.mkdir(parents=True)
        certificate, key = authority.issue(tmp_path / "own", "me", "DNS:me")
        placed = {"ca.crt": authority.certificate, "me.cert": certificate, "me.key": key}
        for name, place in placed.items():
            (own / name).write_bytes(place.read_bytes())
        proxies = Proxies(https=f"http://{host}")
        assert flat("docker://app:1", cert_roots=(str(tmp_path / "certs.d"),), proxies=proxies)
        assert all(one.startswith(b"CONNECT registry-1.docker.io:443") for one in asked)


def test_certificate_of_another_host(authority: Authority, tmp_path: Path) -> None:
    with faulty_registry(authority, tmp_path) as registry:
        registry.add(APP)
        told = fault(
            registry.reference().replace("127.0.0.1", "localhost"),
            SourceError,
            cert_dir=str(authority.directory),
        )
        assert "cannot be trusted" in told


def test_tls_does_not_stop_in_the_middle(authority: Authority, tmp_path: Path) -> None:
    """A redirect or a realm that would leave https for a host elsewhere is refused."""
    with faulty_registry(authority, tmp_path) as registry:
        registry.add(APP)
        where = "http://192.0.2.1/x"
        registry.rules.append(lambda handler: handler.send(307, b"", Location=where) is None)
        told = fault(registry.reference(), SourceError, cert_dir=str(authority.directory))
        assert "from https to plain http" in told
        registry.rules[:] = [wants_token(registry)]
        assert flat(registry.reference(), cert_dir=str(authority.directory))


def test_insecure_registry_may_lead_to_plain_http(authority: Authority, tmp_path: Path) -> None:
    with faulty_registry(authority, tmp_path) as registry, faulty_registry() as proxy:
        registry.add(APP)
        proxy.blobs |= registry.blobs
        blob_store(proxy)
        registry.rules.append(redirects("http://elsewhere.test"))
        # As many write it, without a scheme.
        options = {"tls_verify": False, "proxies": Proxies(http=proxy.host)}
        assert flat(registry.reference(), **options)
        assert all(path.startswith("http://elsewhere.test/v2/") for path, _ in proxy.requests)


def test_bad_certificate_settings(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    for options in (
        {"cert_dir": str(tmp_path)},
        {"cert_dir": str(tmp_path / "none")},
        {"ca_bundles": (str(tmp_path / "none"),)},
    ):
        assert str(tmp_path) in fault("docker://127.0.0.1:1/n", SourceError, **options)


def test_bad_client_certificates(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue(tmp_path / "own", "me", "DNS:me")
    _, other = authority.issue(tmp_path / "own", "other", "DNS:me")
    locked = tmp_path / "locked"
    run([need("openssl"), "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked])
    placed = tmp_path / "placed"
    placed.mkdir()
    (placed / "me.key").write_bytes(key.read_bytes())

    def told() -> str:
        return fault("docker://127.0.0.1:1/n", SourceError, cert_dir=str(placed))

    assert told() == f"{placed}: me.cert is missing, which me.key needs (CAs end in .crt)"
    (placed / "me.cert").write_bytes(certificate.read_bytes())
    fault("docker://127.0.0.1:1/n", TemporaryError, cert_dir=str(placed))  # nobody listens
    unusable = f"{placed}/me.cert and its key cannot be used: "
    for content, problem in (
        (locked, "the key is encrypted: decrypt it first"),
        (other, "they do not belong together"),
        (certificate, "they are not in PEM form"),
    ):
        (placed / "me.key").write_bytes(content.read_bytes())
        assert told() == unusable + problem
    (placed / "me.key").unlink()
    (placed / "me.key").mkdir()
    assert told().startswith(unusable)


def test_directory_of_authorities(authority: Authority, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "one.pem").write_bytes(authority.certificate.read_bytes())
    with faulty_registry(authority, tmp_path) as registry:
        registry.add(APP)
        bundles = (str(trusted),)
        assert "cannot be trusted" in fault(registry.reference(), SourceError, ca_bundles=bundles)
        run([need("openssl"), "rehash", trusted])
        assert flat(registry.reference(), ca_bundles=bundles)


def test_bundles_of_the_environment(tmp_path: Path) -> None:
    environ = {"SSL_CERT_FILE": "/a", "REQUESTS_CA_BUNDLE": "/b", "CURL_CA_BUNDLE": "/a",
               "SSL_CERT_DIR": f"{tmp_path}{os.pathsep}/no/such"}  # fmt: skip
    found = RegistryOptions.from_environment(environ).ca_bundles
    assert found == ("/a", "/b", str(tmp_path))


def test_server_that_cuts_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        reference = f"docker://127.0.0.1:{server.getsockname()[1]}/app"
        fault(reference, TemporaryError, retry_time_s=0.3)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_server_that_hangs_up_on_tls_and_speaks_plain_http() -> None:
    with (
        ExitStack() as stack,
        faulty_registry() as registry,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        registry.add(APP)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client = stack.enter_context(server.accept()[0])
                    if client.recv(1, socket.MSG_PEEK) == b"G":
                        address = "127.0.0.1", int(registry.host.rpartition(":")[2])
                        relay(client, stack.enter_context(socket.create_connection(address)))
                    else:
                        client.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        reference = f"docker://127.0.0.1:{server.getsockname()[1]}/app:1"
        assert flat(reference) == flat(registry.reference())
        assert "cut" in fault(reference, TemporaryError, tls_verify=True, retry_time_s=0.3)
        # So those answer who want TLS: then it is TLS that is tried again.
        registry.rules.append(fails(400, times=99))
        assert "cut the connection; tried" in fault(reference, TemporaryError, retry_time_s=0.3)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_one_broken_connection_does_not_make_an_insecure_registry_a_plain_one(
    authority: Authority, tmp_path: Path
) -> None:
    with faulty_registry(authority, tmp_path) as registry:
        registry.add(APP)

        def cut_the_first(handler: Handler) -> bool:
            if len(registry.requests) == 1:
                handler.cut()
            return len(registry.requests) == 1

        registry.rules.append(cut_the_first)
        assert flat(registry.reference(), tls_verify=False)
        assert registry.paths()[:2] == ["manifests/1"] * 2


def test_certificate_that_is_trusted_itself(authority: Authority, tmp_path: Path) -> None:
    with faulty_registry(authority, tmp_path) as registry:
        registry.add(APP)
        own = tmp_path / "own"
        own.mkdir()
        (own / "ca.crt").write_bytes((tmp_path / "faulty.pem").read_bytes())
        assert flat(registry.reference(), cert_dir=str(own))


def test_a_client_certificate_is_for_the_registry_alone(
    authority: Authority, tmp_path: Path
) -> None:
    with (
        faulty_registry(authority, tmp_path, client_certificate=True) as registry,
        faulty_registry(authority, tmp_path, client_certificate=True) as store,
    ):
        registry.add(APP)
        store.blobs |= registry.blobs
        blob_store(store)
        registry.rules.append(redirects(f"https://{store.host}"))
        certificate, key = authority.issue(tmp_path / "own", "me", "DNS:me")
        own = tmp_path / "certs.d" / registry.host
        own.mkdir(parents=True)
        placed = {"ca.crt": authority.certificate, "me.cert": certificate, "me.key": key}
        for name, place in placed.items():
            (own / name).write_bytes(place.read_bytes())
        roots = (str(tmp_path / "certs.d"),)
        fault(registry.reference(), dimgx.DimgxError, cert_roots=roots, retry_time_s=0.2)
        assert registry.requests
        assert not store.requests
