"""Answers to "how is this server": read now if the backend answers in time, otherwise the last reading with its age."""

import logging

from compute_agent.bounded_calls import BoundedCalls, NoAnswer
from compute_agent.contract.clock import Clock
from compute_agent.contract.diagnostics import DiagnosticsReply, DiagnosticsReport
from compute_agent.contract.errors import Code
from compute_agent.contract.models import ActionKind
from compute_agent.diagnostics import find_earlier, make_historic, make_report
from compute_agent.drivers.base import Driver
from compute_agent.drivers.errors import BackendUnavailable, NothingSent
from compute_agent.drivers.models import CollectedDiagnostics
from compute_agent.kinds import Refused, make_result
from compute_agent.sampler import Sampler

LOG = logging.getLogger(__name__)


class Collector:
    """Thread-safe; a caller waits ``limit`` seconds at most.

    :param limit: seconds for one fresh collection, after which the last reading is the answer
    :param threads: collections at the same time; those that are stuck in the backend count until they come back
    """

    def __init__(self, driver: Driver, sampler: Sampler, clock: Clock, *, limit: float, threads: int) -> None:
        self._driver = driver
        self._sampler = sampler
        self._clock = clock
        self._calls: BoundedCalls[CollectedDiagnostics] = BoundedCalls("collector", threads=threads, limit=limit)

    def get_report(self, server: str) -> DiagnosticsReport:
        """The diagnostics of a server, as fresh as can be.

        :raises Refused: there are none; nothing was changed.
        """
        source = self._driver.diagnostics
        if source is None:
            raise Refused(Code.NOT_SUPPORTED, f"The driver {self._driver.name} cannot tell diagnostics.")
        try:
            reading = self._calls.call(server, lambda: source.collect_diagnostics(server))
        except NothingSent as error:
            if not isinstance(error, BackendUnavailable):
                raise Refused(error.code, error.reason) from error
            return self._get_last_report(server, error.reason, error.code)
        except NoAnswer as error:
            return self._get_last_report(server, str(error), Code.BACKEND_UNAVAILABLE)
        except Exception as error:
            LOG.exception("server %s: collecting its diagnostics failed in a way no driver declares", server)
            return self._get_last_report(server, f"the driver failed: {error!r}", Code.BACKEND_UNAVAILABLE)
        earlier = find_earlier(reading, self._sampler.list_readings(server))
        self._sampler.remember(reading)
        return make_report(reading, earlier, age=self._clock.monotonic() - reading.monotonic)

    def get_reply(self, server: str, *, history: bool = False) -> DiagnosticsReply:
        """The answer to a call: a report or a refusal, and the samples of the last minutes when asked for."""
        try:
            report = self.get_report(server)
        except Refused as refusal:
            result = make_result(refusal.code, refusal.reason, ActionKind.COLLECT_DIAGNOSTICS)
            return DiagnosticsReply.refuse(refusal.code, result.reason)
        return DiagnosticsReply(report=report, history=self.list_history(server) if history else ())

    def list_history(self, server: str) -> tuple[DiagnosticsReport, ...]:
        """A report for each sample of the ring, oldest first; without what would make the answer large."""
        samples = self._sampler.list_samples(server)
        now = self._clock.monotonic()
        reports = (
            make_report(sample, find_earlier(sample, samples[:number]), age=now - sample.monotonic) for number, sample in enumerate(samples)
        )
        return tuple(make_historic(report) for report in reports)

    def _get_last_report(self, server: str, problem: str, code: Code) -> DiagnosticsReport:
        readings = self._sampler.list_readings(server)
        if not readings:
            raise Refused(code, f"{problem}; and there is no earlier reading of this server.")
        last = readings[-1]
        age = self._clock.monotonic() - last.monotonic
        return make_report(last, find_earlier(last, readings[:-1]), age=age, stale=True, problem=problem)
