"""The two RPC servers of an agent: one for what it is to do (casts), one for what it is asked (calls).

A reply can hang: when the broker lost the asker's reply queue in a crash, the publisher of the reply waits for a confirm that never comes
(measured with RabbitMQ 3.10: for minutes, each time holding one of the server's threads). So questions have a topic and threads of their
own, and however many of them hang, no action waits for one of theirs.
"""

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from compute_agent.contract.signing import CALLS
from compute_agent.contract.transport import CALL_TOPIC, RPC_TOPIC, oslo_messaging
from compute_agent.endpoint import Endpoint

LOG = logging.getLogger(__name__)

CALL_THREADS = 4
"""Questions that are answered at a time."""


class WorkThreads:
    """What a server of oslo.messaging works on. They wait for work, where its own look for some once a second each, all day, and take as
    long to end; a reply that hangs keeps its thread, but no process that wants to end.

    :param max_workers: threads at most; one is started when there is work and none is free
    """

    def __init__(self, max_workers: int) -> None:
        self._most = max_workers
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._free = 0

    def submit(self, work: Callable[..., object], *arguments: object) -> None:
        """Do it soon. What comes of it, it tells itself."""
        self._work.put(partial(work, *arguments))
        with self._lock:
            if self._free:
                self._free -= 1
            elif len(self._threads) < self._most:
                thread = threading.Thread(target=self._run, name=f"rpc-{len(self._threads) + 1}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def shutdown(self, *, wait: bool) -> None:
        """End when all is done that was submitted.

        :param wait: return only then
        """
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                LOG.exception("what came in through RPC was not worked off")
            with self._lock:
                self._free += 1


class CastReader(WorkThreads):
    """What the server of casts works on: the thread that reads them. Each is one short transaction of the journal, of which there is one
    at a time anyway, and to wake another thread for it would cost as much again.

    Whatever is not plainly a cast gets a thread, so that no action waits for it: a question, and what has oslo.messaging send a reply,
    which may wait for a queue that never was or for the end of an alarm. Anybody with an account at the broker may send such things.
    """

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        if not _is_plain_cast(arguments):
            super().submit(work, *arguments)
            return
        try:
            work(*arguments)
        except Exception:
            LOG.exception("what came in through RPC was not worked off")


def _is_plain_cast(arguments: tuple[Any, ...]) -> bool:
    """Whether oslo.messaging's server has been given one message that nobody waits for; no as well where it says so in other words."""
    try:
        [[incoming]] = arguments
        method = incoming.message["method"]
        is_awaited = incoming.orig_msg_id is not None or incoming.reply_q is not None or bool(incoming.client_timeout)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return isinstance(method, str) and method not in CALLS and not is_awaited


class RpcServers:
    """Both, started and stopped together."""

    def __init__(self, transport: oslo_messaging.Transport, host: str, endpoint: Endpoint) -> None:
        self._answers = False
        self._casts, self._calls = (
            oslo_messaging.get_rpc_server(
                transport,
                oslo_messaging.Target(topic=topic, server=host),
                [endpoint],
                access_policy=oslo_messaging.DefaultRPCAccessPolicy,
            )
            for topic in (RPC_TOPIC, CALL_TOPIC)
        )
        self._casts._executor_cls = CastReader
        self._calls._executor_cls = WorkThreads

    def start(self) -> Any:
        """Begin with the casts, which are what the agent is for: without its questions it goes on.

        :raises Exception: no cast is taken in.
        """
        self._casts.start()
        try:
            self._calls.start(override_pool_size=CALL_THREADS)
        except Exception:
            LOG.exception("questions to this host are not answered until its agent takes the host's lock again")
            self._answers = False
        else:
            self._answers = True

    def stop(self) -> Any:
        """Both at a time: each takes a second, for so long does oslo.messaging look at an empty queue."""
        calls = threading.Thread(target=self._calls.stop, name="call server's stop", daemon=True) if self._answers else None
        if calls is not None:
            calls.start()
        self._casts.stop()
        if calls is not None:
            calls.join()

    def wait(self) -> Any:
        """Until what came in is done. Casts first: a reply that hangs must not keep them from being waited for."""
        self._casts.wait()
        if self._answers:
            self._calls.wait()
