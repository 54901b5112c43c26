"""Run settings, however a source spells them."""

from __future__ import annotations

from typing import Any

import pytest

from dimgx import ImageError
from dimgx.jsondoc import Fields
from dimgx.settings import HealthCheck, Settings, parse_settings

CONFIG = {
    "Env": ["PATH=/bin", "A=b=c"],
    "Entrypoint": ["/bin/app"],
    "Cmd": ["-x"],
    "User": "1:2",
    "WorkingDir": "/srv",
    "Labels": {"b": "2", "a": "1"},
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    "Volumes": {"/data": {}},
    "StopSignal": "SIGINT",
    "OnBuild": ["RUN make"],
    "Shell": ["/bin/bash", "-c"],
    "Healthcheck": {"Test": ["CMD", "x"], "Interval": 10**9, "Retries": 3, "StartInterval": 5},
}


def parsed(config: dict[str, Any], **beside: Any) -> Settings:
    return parse_settings(Fields({"config": config, **beside}, "the config"))


def test_all_that_counts() -> None:
    assert parsed(CONFIG) == Settings(
        env=("PATH=/bin", "A=b=c"),
        entrypoint=("/bin/app",),
        cmd=("-x",),
        user="1:2",
        workdir="/srv",
        labels={"a": "1", "b": "2"},
        ports=("53/udp", "80/tcp"),
        volumes=("/data",),
        stop_signal="SIGINT",
        on_build=("RUN make",),
        shell=("/bin/bash", "-c"),
        healthcheck=HealthCheck(("CMD", "x"), 10**9, retries=3, start_interval_ns=5),
    )


def test_a_health_check_has_all_its_times() -> None:
    times = {"Interval": 1, "Timeout": 2, "StartPeriod": 3, "Retries": 4, "StartInterval": 5}
    found = parsed({"Healthcheck": {"Test": ["CMD", "x"], **times}})
    assert found.healthcheck == HealthCheck(("CMD", "x"), 1, 2, 3, 4, 5)
    found = parsed({"Healthcheck": {"Test": ["NONE"]}})
    assert found.healthcheck == HealthCheck(("NONE",)) == (("NONE",), 0, 0, 0, 0, 0)


def test_volumes_are_sorted_and_what_is_not_said_is_empty() -> None:
    assert parsed({"Volumes": {"/srv": {}, "/data": {}}}) == Settings(volumes=("/data", "/srv"))
    assert parse_settings(Fields({}, "it")) == Settings()


def test_digests_are_those_of_records_that_are_there() -> None:
    found = parsed(CONFIG)
    assert found.digest[7:] == "a45c835d7e315f26076d07ce3e3d9958c1f91ce086c27e107541a5a7fc678c9a"
    assert found.health_digest is not None
    assert found.health_digest[7:19] == "de6c85ebb25b"


def test_what_is_empty_is_as_good_as_absent() -> None:
    empty: dict[str, Any] = {key: type(value)() for key, value in CONFIG.items()}
    for config in (empty, dict.fromkeys(CONFIG), {"Hostname": "x", "Image": "y"}):
        assert parsed(config).digest == Settings().digest
        assert parsed(config).health_digest == "none"


def test_order_of_keys_does_not_count() -> None:
    other = dict(reversed(CONFIG.items())) | {"Labels": {"a": "1", "b": "2"}}
    assert parsed(other).digest == parsed(CONFIG).digest


@pytest.mark.parametrize("key", sorted(set(CONFIG) - {"Healthcheck"}))
def test_each_setting_counts(key: str) -> None:
    less = {name: value for name, value in CONFIG.items() if name != key}
    assert parsed(less).digest != parsed(CONFIG).digest
    assert parsed(less).health_digest == parsed(CONFIG).health_digest


def test_health_check_counts_for_itself() -> None:
    for check in ({"Test": ["NONE"]}, CONFIG["Healthcheck"] | {"StartInterval": 6}):
        other = parsed(CONFIG | {"Healthcheck": check})
        assert other.digest == parsed(CONFIG).digest
        assert other.health_digest != parsed(CONFIG).health_digest


def test_podman_tells_the_health_check_beside_the_config() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "Healthcheck"}
    assert parsed(config, Healthcheck=CONFIG["Healthcheck"]) == parsed(CONFIG)


def test_health_check_that_may_be_left_out_is_not_known() -> None:
    fields = Fields({"config": {}}, "it")
    assert parse_settings(fields, is_health_known=False).health_digest is None


def test_wrong_types_are_errors() -> None:
    with pytest.raises(ImageError, match="Env is no list"):
        parsed({"Env": "A=b"})
