"""Who may say what: each host's word comes from that host's own account at the broker, the gateway's own from the gateway's.

RabbitMQ vouches for the account of each message (AMQP ``user_id``), so a broken or hostile agent speaks for its own host only. That
takes one account per agent; where all of them share one, there is nothing to hold a message against.
"""

import logging
from collections.abc import Collection

from oslo_config import cfg

from api_gateway.echo import ECHO_TYPE
from compute_agent.contract.accounts import build_agent_account
from compute_agent.contract.broker import list_accounts
from compute_agent.contract.notifications import Notification

LOG = logging.getLogger(__name__)


class SenderCheck:
    """Holds messages against the accounts that sent them.

    :param gateway_accounts: those of the gateway, of all its machines; they may speak for every host, as the gateway does when it gives an
        action up
    :param store_id: the epoch of the gateway's own events
    """

    def __init__(self, gateway_accounts: Collection[str], store_id: str) -> None:
        self._gateway_accounts = frozenset(gateway_accounts)
        self._store_id = store_id

    def find_objection(self, notification: Notification, user: str | None) -> str | None:
        """Why this account cannot have said this, for people; None when it may."""
        if user in self._gateway_accounts:
            return None
        if user is None:
            return "it names no account that sent it"
        if notification.event_type == ECHO_TYPE or notification.payload.get("epoch") == self._store_id:
            return f"account {user!r} sent what only the gateway says"
        host = notification.payload.get("host")
        if not isinstance(host, str):
            return f"account {user!r} sent it and it names no host"
        if user != build_agent_account(host):
            return f"account {user!r} spoke for host {host!r}"
        return None


def find_sender_check(conf: cfg.ConfigOpts, store_id: str) -> SenderCheck | None:
    """As ``[recorder]`` says; None, with a warning: every account is believed."""
    if not conf.recorder.verify_senders:
        LOG.warning(
            "every account at the broker is believed whatever it says of any host: give each agent an account of its own, then turn on "
            "[recorder] verify_senders"
        )
        return None
    return SenderCheck(list_accounts(conf.transport_url) | set(conf.recorder.gateway_accounts), store_id)
