"""What our own formatter makes of a line: what oslo.log makes of it."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from oslo_context import context
from oslo_log import log
from oslo_log.formatters import ContextFormatter

from compute_agent.contract.logs import LineContext, QuickFormatter, set_up_log

LOG = logging.getLogger("crashcart.test")


@pytest.fixture
def conf() -> Iterator[cfg.ConfigOpts]:
    conf = cfg.ConfigOpts()
    log.register_options(conf)
    conf([], project="crashcart", default_config_files=[])
    yield conf
    conf.reset()


def make_record(level: int = logging.INFO, **values: Any) -> logging.LogRecord:
    record = logging.LogRecord("compute_agent.actions", level, __file__, 1, "action %s: %s", ("req-1", "started"), None)
    record.__dict__.update(values)
    return record


def check(conf: cfg.ConfigOpts, record: logging.LogRecord) -> str:
    """The line, after it was compared."""
    datefmt = conf.log_date_format
    expected = ContextFormatter(config=conf, datefmt=datefmt, project="crashcart").format(logging.makeLogRecord(record.__dict__))
    line = QuickFormatter(config=conf, datefmt=datefmt).format(record)
    assert line == expected
    return line


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_a_line_is_the_one_that_oslo_log_writes(conf: cfg.ConfigOpts, level: int) -> None:
    assert "action req-1: started" in check(conf, make_record(level))


def test_so_is_that_of_another_second(conf: cfg.ConfigOpts) -> None:
    formatter = QuickFormatter(config=conf, datefmt=conf.log_date_format)
    lines = [formatter.format(make_record(created=1_800_000_000.25 + second)) for second in (0.0, 0.5, 1.0)]
    assert [lines[0][:19] == line[:19] for line in lines] == [True, True, False]


def test_an_exception_is_written_with_its_traceback(conf: cfg.ConfigOpts) -> None:
    try:
        raise LookupError("no such server")
    except LookupError:
        line = check(conf, make_record(logging.INFO, exc_info=sys.exc_info()))
    assert "Traceback" in line


def test_an_operators_format_is_kept(conf: cfg.ConfigOpts) -> None:
    conf.set_override("logging_default_format_string", "%(isotime)s %(resource)s%(message)s")
    assert check(conf, make_record()).endswith("action req-1: started")


@pytest.fixture
def _of_no_request() -> Iterator[None]:
    """Again, when the test is over."""
    previous = context.get_current()
    yield
    context._request_store.context = previous


@pytest.mark.usefixtures("_of_no_request")
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize("user", ["me", None])
def test_a_requests_context_is_written(conf: cfg.ConfigOpts, level: int, user: str | None) -> None:
    for number in range(2):  # what is known of the caller, it knows the second time
        LineContext(f"req-{number}", "req-of-somebody" if number else None, user, "demo")
        assert f"req-{number}" in check(conf, make_record(level))


@pytest.mark.usefixtures("_of_no_request")
def test_so_is_a_context_that_is_none_of_ours(conf: cfg.ConfigOpts) -> None:
    context.RequestContext(request_id="req-7", user_id="me", user_domain_id="theirs").update_store()
    assert "theirs" in check(conf, make_record())


@pytest.mark.usefixtures("_of_no_request")
def test_what_a_line_brings_itself_counts(conf: cfg.ConfigOpts) -> None:
    LineContext("req-8", None, "me", "demo")
    assert "req-9" in check(conf, make_record(context=context.RequestContext(request_id="req-9", user_id="somebody", overwrite=False)))


@pytest.mark.usefixtures("_of_no_request")
def test_callers_are_not_mixed_up_and_not_kept_for_ever(conf: cfg.ConfigOpts) -> None:
    formatter = QuickFormatter(config=conf, datefmt=conf.log_date_format)
    for number in range(300):
        LineContext("req-1", None, f"user-{number}", "demo")
        assert f" user-{number} demo " in formatter.format(make_record())
    assert len(formatter._callers) <= 256


@pytest.mark.usefixtures("_of_no_request")
def test_of_a_caller_nothing_is_kept_that_belongs_to_a_request(conf: cfg.ConfigOpts) -> None:
    conf.set_override("logging_user_identity_format", "%(user)s in %(request_id)s")
    formatter = QuickFormatter(config=conf, datefmt=conf.log_date_format)
    for number in range(2):
        LineContext(f"req-{number}", None, "me", "demo")
        assert f"me in req-{number}" in formatter.format(make_record())


def test_lines_of_many_threads_are_written_whole(conf: cfg.ConfigOpts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        set_up_log(conf)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: LOG.info("action %d: %s", number, "x" * 5000), range(100)))
        LOG.info("half of a letter: %s", "\ud800")
    *lines, last = (tmp_path / "log").read_text().splitlines()
    assert sorted(line.rpartition("action ")[2] for line in lines) == sorted(f"{number}: {'x' * 5000}" for number in range(100))
    assert last.endswith("half of a letter: \\ud800")


def test_so_are_long_ones_on_a_pipe_that_is_full(conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, say, and another one."""
    source, target = os.pipe()
    with open(source) as lines, open(target, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        set_up_log(conf)
        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(LOG.info, "action %d: %s", number, "x" * 9000) for number in range(100)]
            read = [lines.readline() for _ in done]
    assert sorted(line.rpartition("action ")[2] for line in read) == sorted(f"{number}: {'x' * 9000}\n" for number in range(100))


def test_a_line_takes_the_way_that_every_release_of_python_sends_it(
    conf: cfg.ConfigOpts, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 3.13 on a handler's lock is entered as a context, whatever it is."""
    monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(1), "w"))
    set_up_log(conf)
    [handler] = logging.getLogger().handlers
    assert handler.lock is not None
    with handler.lock:
        LOG.info("action started")
    assert "action started" in capfd.readouterr().out


def test_lines_that_go_to_no_file_are_written_as_ever(conf: cfg.ConfigOpts, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    set_up_log(conf)
    LOG.info("action started")
    assert "action started" in stream.getvalue()
    assert [type(handler) for handler in logging.getLogger().handlers] == [logging.StreamHandler]
