"""Run settings in the words of `import --change`; what engines make of them is tested with them."""

from __future__ import annotations

import pytest

from dimgx import ImageError
from dimgx.images.changes import docker_changes, podman_changes
from dimgx.settings import HealthCheck, Settings

SAYABLE = [
    (Settings(env=("A=b",)), "ENV A=b", 'ENV A="b"'),
    (Settings(env=("A=",)), 'ENV A=""', 'ENV A=""'),
    (Settings(env=('A=$b \\ "c"',)), 'ENV A="\\$b \\\\ \\"c\\""', 'ENV A="$b \\ "c""'),
    (Settings(labels={"a b": "c"}), 'LABEL "a b"=c', 'LABEL a b="c"'),
    (Settings(ports=("80/tcp",)), "EXPOSE 80/tcp", "EXPOSE 80/tcp"),
    (Settings(volumes=("/a", "/b $c")), 'VOLUME ["/a", "/b \\\\$c"]', 'VOLUME ["/a", "/b $c"]'),
    (Settings(workdir="/a b"), 'WORKDIR "/a b"', "WORKDIR /a b"),
    (Settings(user="1:2"), "USER 1:2", "USER 1:2"),
    (Settings(stop_signal="SIGINT"), "STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
    (Settings(cmd=("a b", "$c")), 'CMD ["a b", "$c"]', 'CMD ["a b", "$c"]'),
    (Settings(entrypoint=("é\n",)), 'ENTRYPOINT ["\\u00e9\\n"]', 'ENTRYPOINT ["\\u00e9\\n"]'),
]


@pytest.mark.parametrize(("settings", "docker", "podman"), SAYABLE, ids=[s[1] for s in SAYABLE])
def test_one_setting(settings: Settings, docker: str, podman: str) -> None:
    assert docker_changes(settings) == [docker]
    assert podman_changes(settings) == [podman]


HEALTH = [
    (HealthCheck(("NONE",)), "NONE"),
    (HealthCheck(("CMD", "a", "b c")), 'CMD ["a", "b c"]'),
    (HealthCheck(("CMD-SHELL", "a $b"), 10**9, 5, 7, 3, 11),
     "--interval=1000000000ns --timeout=5ns --start-period=7ns --start-interval=11ns --retries=3"
     " CMD a $b"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "said"), HEALTH, ids=lambda found: str(found)[:20])
def test_health_check(check: HealthCheck, said: str) -> None:
    settings = Settings(healthcheck=check)
    assert docker_changes(settings) == [f"HEALTHCHECK {said}"]
    assert podman_changes(settings) == []


def test_what_is_for_builds() -> None:
    settings = Settings(on_build=('RUN "$a"  b', "COPY . /"), shell=("/bin/bash", "-c"))
    assert docker_changes(settings) == ['ONBUILD RUN "$a"  b', "ONBUILD COPY . /"]
    assert podman_changes(settings) == []


def test_entrypoint_comes_before_cmd() -> None:
    both = Settings(entrypoint=("a",), cmd=("b",))
    assert docker_changes(both) == podman_changes(both) == ['ENTRYPOINT ["a"]', 'CMD ["b"]']


def test_podman_is_told_each_port_of_a_range() -> None:
    settings = Settings(ports=("53/udp", "8000-8002/tcp", "90-91"))
    assert podman_changes(settings) == [
        "EXPOSE 53/udp", "EXPOSE 8000/tcp", "EXPOSE 8001/tcp", "EXPOSE 8002/tcp", "EXPOSE 90",
        "EXPOSE 91",
    ]  # fmt: skip


UNSAYABLE = [
    (Settings(env=("A=b\nUSER 0",)), docker_changes, "ENV with a newline"),
    (Settings(labels={"a": "b\rc"}), docker_changes, "LABEL with a newline"),
    (Settings(user="a\nb"), docker_changes, "USER with a newline"),
    (Settings(env=("novalue",)), docker_changes, "variable 'novalue'"),
    (Settings(env=("=x",)), podman_changes, "variable '=x'"),
    (Settings(labels={"a=b": "c"}), docker_changes, "label 'a=b'"),
    (Settings(labels={"a=b": "c"}), podman_changes, "label 'a=b'"),
    (Settings(workdir=" /a"), podman_changes, "WORKDIR"),
    (Settings(healthcheck=HealthCheck(("CMD-SHELL", "[ -e /x ]"))), docker_changes, "health"),
    (Settings(healthcheck=HealthCheck(("CMD-SHELL", "a \\"))), docker_changes, "health"),
    (Settings(on_build=("RUN a \\",)), docker_changes, "ONBUILD"),
    (Settings(on_build=("RUN a\nUSER 0",)), docker_changes, "ONBUILD with a newline"),
    (Settings(healthcheck=HealthCheck(("OTHER", "a"))), docker_changes, "health"),
]


@pytest.mark.parametrize(
    ("settings", "changes", "what"), UNSAYABLE,
    ids=[f"{changes.__name__}-{what}" for _, changes, what in UNSAYABLE],
)  # fmt: skip
def test_what_cannot_be_said_is_an_error(settings: Settings, changes: object, what: str) -> None:
    with pytest.raises(ImageError, match="--load keeps all of it") as raised:
        changes(settings)  # type: ignore[operator]  # one of the two
    assert what in str(raised.value)
