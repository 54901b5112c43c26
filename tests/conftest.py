"""What all tests share: profiles of hypothesis, and helpers whose asserts explain themselves."""

from __future__ import annotations

import compileall
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import dimgx
from dimgx.system import usable_cpus
from tests import portable

if TYPE_CHECKING:
    from tests.services import Engine

pytest.register_assert_rewrite("tests.cases", "tests.services", "tests.programs")

# The same examples each time, so that a red run is about the change; `HYPOTHESIS_PROFILE=explore`
# looks for new ones.
_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile(
    "steady", derandomize=True, deadline=None, max_examples=300, database=None,
    suppress_health_check=_CHECKS,
)  # fmt: skip
settings.register_profile("quick", settings.get_profile("steady"), max_examples=40)
settings.register_profile(
    "explore", deadline=None, max_examples=5000, suppress_health_check=_CHECKS
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

# A shell has its background jobs ignore SIGINT, and `nohup` SIGHUP, which whom we start inherits.
for _name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM"):
    _number = getattr(signal, _name, None)
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

if portable.IS_WANTED:
    portable.take_away()


def pytest_configure(config: pytest.Config) -> None:
    """Have the package's bytecode at hand, also where Python is told to write none.

    Each of some 2,600 runs of the program would compile it anew, which takes as long as the rest.
    """
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        compileall.compile_dir(dimgx.__path__[0], quiet=2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Have one process more than CPUs: an eighth of the time is waiting, for servers mostly."""
    return usable_cpus() + 1


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give a Docker Engine of the tests' own."""
    from tests import services

    with services.running_docker(tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_service() -> Iterator[Engine]:
    """Give Podman's service with storage of the tests' own."""
    from tests import services

    with services.running_podman() as engine:
        yield engine


@pytest.fixture(scope="session")
def containerd_service() -> Iterator[Engine]:
    """Give a containerd of the tests' own."""
    from tests import services

    with services.running_containerd() as engine:
        yield engine


@pytest.fixture
def no_threads() -> Iterator[None]:
    """Let no thread be started, as where a control group bounds them: no stack is that large."""
    before = threading.stack_size(1 << 47)
    yield
    threading.stack_size(before)
