"""The log as oslo.log sets it up, with lines that are written at a quarter of its price: each action has several in each process."""

import logging
import os
import select
import threading
import time
from typing import Any, TextIO

from oslo_config import cfg
from oslo_context import context
from oslo_log import log
from oslo_log.formatters import ContextFormatter

_PROJECT = "crashcart"
_EMPTY = dict.fromkeys(("instance", "color", "user_identity", "resource", "user_name", "project_name", "global_request_id"), "")
"""What oslo.log makes of values that a line does not have."""
_OWN_WORDS = frozenset({"request_id", "context"})
"""What a line brings itself that says which request it belongs to."""
_MOST_CALLERS = 256


def set_up_log(conf: cfg.ConfigOpts) -> None:
    """What ``oslo_log.log.setup`` does, with the formatter and the handler below wherever it has put its own."""
    log.setup(conf, _PROJECT)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler.formatter) is ContextFormatter:
            formatter = QuickFormatter(config=conf, datefmt=conf.log_date_format)
            handler.setFormatter(formatter)
            if type(handler) is logging.StreamHandler and _has_descriptor(handler.stream):
                root.removeHandler(handler)
                root.addHandler(QuickHandler(handler.stream, formatter))


def _has_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False


class QuickHandler(logging.Handler):
    """Writes each line with one word to the kernel, which keeps those of several threads apart by itself, on a pipe if they are short.
    Under the lock that logging takes around each line, all who have one to write would wait for whoever waits for the kernel."""

    def __init__(self, stream: TextIO, formatter: "QuickFormatter") -> None:
        super().__init__()
        stream.flush()
        self._descriptor = stream.fileno()
        self._long_lines = threading.Lock()
        self.setFormatter(formatter)

    def handle(self, record: logging.LogRecord) -> bool:
        """As logging does it, without the lock."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            if len(line) <= select.PIPE_BUF:
                self._write(line)
            else:
                with self._long_lines:
                    self._write(line)
        except Exception:  # noqa: BLE001 -- as logging does: what cannot be logged must not keep anything from being done
            self.handleError(record)

    def _write(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._descriptor, line) :]


class LineContext(context.RequestContext):
    """What the lines say that are written for a request, from here on, by this thread; the thread's next request replaces it."""

    def __init__(self, request_id: str, global_request_id: str | None, user: str | None, project: str | None) -> None:
        super().__init__(request_id=request_id, global_request_id=global_request_id, user_id=user, project_id=project, overwrite=True)


class QuickFormatter(ContextFormatter):
    """Writes what oslo.log writes. It does so itself where a line says that all is as it should be, unless a foreign context belongs to it:
    oslo.log makes a time zone for each line, for a time that no format of ours shows, and describes the same caller anew each time.

    Thread-safe, which oslo.log's own is not."""

    def __init__(self, *, config: cfg.ConfigOpts, datefmt: str | None) -> None:
        super().__init__(project=_PROJECT, config=config, datefmt=datefmt)
        self._oslos = threading.Lock()
        self._plain: str = config.logging_default_format_string
        self._of_request: str = config.logging_context_format_string
        self._identity: str = config.logging_user_identity_format
        self._is_of_callers = "request_id" not in self._identity
        self._callers: dict[tuple[str | None, str | None], dict[str, Any]] = {}
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        about = context.get_current()
        is_plain = record.levelno == logging.INFO and not record.exc_info and not record.stack_info
        if not is_plain or not (about is None or type(about) is LineContext) or not _OWN_WORDS.isdisjoint(record.__dict__):
            return self._format_as_oslo(record)
        values = {**_EMPTY, **record.__dict__, "message": record.getMessage(), "asctime": self._format_second(record)}
        try:
            if about is None:
                return self._plain % values
            if self._is_of_callers:
                return self._of_request % {**values, **self._describe(about)}
        except KeyError:  # the operator's own format shows what only oslo.log can tell
            pass
        return self._format_as_oslo(record)

    def _format_as_oslo(self, record: logging.LogRecord) -> str:
        with self._oslos:
            return str(super().format(record))

    def _describe(self, about: LineContext) -> dict[str, Any]:
        """What oslo.log makes of it."""
        caller = about.user_id, about.project_id
        known = self._callers.get(caller)
        if known is None:
            if len(self._callers) >= _MOST_CALLERS:
                self._callers.clear()
            known = about.get_logging_values()
            known["user_identity"] = self._identity % {name: value or "-" for name, value in known.items()}
            self._callers[caller] = known
        return {**known, "request_id": about.request_id, "global_request_id": about.global_request_id}

    def _format_second(self, record: logging.LogRecord) -> str:
        """The time without its fraction, which the format adds."""
        second, text = self._second
        if second != int(record.created):
            second, text = int(record.created), time.strftime(self.datefmt or self.default_time_format, time.localtime(record.created))
            self._second = second, text
        return text
