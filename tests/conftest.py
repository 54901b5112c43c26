"""What all tests share: profiles of hypothesis, and helpers whose asserts explain themselves."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import portable

pytest.register_assert_rewrite("tests.cases", "tests.programs")

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

if portable.IS_WANTED:
    portable.take_away()
