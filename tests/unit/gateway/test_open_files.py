"""The limit of open files, which one part of a process must not use up for the others."""

import logging
import resource
from collections.abc import Iterator
from unittest import mock

import pytest

from api_gateway.open_files import allow_open_files

INFINITE = resource.RLIM_INFINITY


@pytest.fixture
def limited() -> Iterator[mock.Mock]:
    with mock.patch("api_gateway.open_files.resource.setrlimit") as setrlimit:
        yield setrlimit


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(1024, 4096, 2000), (1024, INFINITE, 2000), (1024, 1500, 1500)])
def test_a_limit_that_is_too_low_is_raised_as_far_as_one_may(
    limited: mock.Mock, caplog: pytest.LogCaptureFixture, soft: int, hard: int, allowed: int
) -> None:
    with mock.patch("api_gateway.open_files.resource.getrlimit", return_value=(soft, hard)), caplog.at_level(logging.WARNING):
        allow_open_files(2000)
    limited.assert_called_once_with(resource.RLIMIT_NOFILE, (allowed, hard))
    assert ("only 1500 files may be open, 2000 may be needed" in caplog.text) is (allowed < 2000)


@pytest.mark.parametrize("soft", [2000, 20_000, INFINITE])
def test_a_limit_that_is_high_enough_is_left_alone(limited: mock.Mock, soft: int) -> None:
    with mock.patch("api_gateway.open_files.resource.getrlimit", return_value=(soft, INFINITE)):
        allow_open_files(2000)
    limited.assert_not_called()
