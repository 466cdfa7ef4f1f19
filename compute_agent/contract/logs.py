"""The log as oslo.log sets it up, with lines that are written at a quarter of its price: each action has several in each process."""

import logging
import time

from oslo_config import cfg
from oslo_context import context
from oslo_log import log
from oslo_log.formatters import ContextFormatter

_PROJECT = "crashcart"
_EMPTY = dict.fromkeys(("instance", "color", "user_identity", "resource", "user_name", "project_name", "global_request_id"), "")
"""What oslo.log makes of values that a line does not have."""


def set_up_log(conf: cfg.ConfigOpts) -> None:
    """What ``oslo_log.log.setup`` does, and the formatter below wherever it has put its own."""
    log.setup(conf, _PROJECT)
    for handler in logging.getLogger().handlers:
        if type(handler.formatter) is ContextFormatter:
            handler.setFormatter(QuickFormatter(config=conf, datefmt=conf.log_date_format))


class QuickFormatter(ContextFormatter):
    """Writes what oslo.log writes. It does so itself where a line says that all is as it should be and no request's context belongs to it:
    oslo.log makes a time zone for each line, for a time that no format of ours shows."""

    def __init__(self, *, config: cfg.ConfigOpts, datefmt: str | None) -> None:
        super().__init__(project=_PROJECT, config=config, datefmt=datefmt)
        self._plain: str = config.logging_default_format_string
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        is_plain = record.levelno == logging.INFO and not record.exc_info and not record.stack_info
        if not is_plain or "request_id" in record.__dict__ or context.get_current() is not None:
            return str(super().format(record))
        values = {**_EMPTY, **record.__dict__, "message": record.getMessage(), "asctime": self._format_second(record)}
        try:
            return self._plain % values
        except KeyError:  # the operator's own format shows what only oslo.log can tell
            return str(super().format(record))

    def _format_second(self, record: logging.LogRecord) -> str:
        """The time without its fraction, which the format adds."""
        second, text = self._second
        if second != int(record.created):
            second, text = int(record.created), time.strftime(self.datefmt or self.default_time_format, time.localtime(record.created))
            self._second = second, text
        return text
