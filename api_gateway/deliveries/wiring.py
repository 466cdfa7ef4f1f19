"""The means of delivering, made of the configuration: for the API, which judges targets, and for the engine, which calls them."""

import ssl
from collections.abc import Callable
from functools import cache

from oslo_config import cfg

from api_gateway.deliveries.back_off import BackOff
from api_gateway.deliveries.mail import MailSender, MailServer
from api_gateway.deliveries.outcome import Message, Sender
from api_gateway.deliveries.targets import EMAIL, WEBHOOK, TargetRefused, TargetRules, check_address_form
from compute_agent.contract.clock import Clock


def read_target_rules(conf: cfg.ConfigOpts) -> TargetRules:
    """Where subscriptions may lead."""
    return TargetRules(
        allowed_networks=tuple(conf.deliveries.allowed_networks),
        allow_plain_http=conf.deliveries.allow_plain_http,
        mail=bool(conf.smtp.host),
        mail_domains=tuple(conf.smtp.allowed_domains),
    )


def read_back_off(conf: cfg.ConfigOpts) -> BackOff:
    options = conf.deliveries
    return BackOff(first=options.retry_first, longest=options.retry_longest, max_tries=options.max_tries)


def create_senders(conf: cfg.ConfigOpts, clock: Clock) -> dict[str, Sender]:
    """By the kind of target.

    :raises ValueError: options contradict each other; the text says which.
    :raises OSError: ``ca_file`` cannot be used.
    """
    options, rules = conf.deliveries, read_target_rules(conf)
    trust = cache(lambda: ssl.create_default_context(cafile=options.ca_file or None))
    if options.ca_file:
        trust()

    def create_webhook_sender() -> Sender:
        from api_gateway.deliveries.webhook import WebhookSender

        return WebhookSender(rules, clock, timeout=options.timeout, context=trust())

    senders: dict[str, Sender] = {WEBHOOK: _MadeAtFirstUse(create_webhook_sender)}
    if rules.mail:
        senders[EMAIL] = MailSender(_read_mail_server(conf), rules, clock, timeout=options.timeout, context=trust())
    return senders


class _MadeAtFirstUse:
    """A sender that few gateways need: its HTTP client and the system's list of authorities are 5 MiB. Implements Sender."""

    def __init__(self, create: Callable[[], Sender]) -> None:
        self._create = cache(create)

    def send(self, message: Message) -> None:
        """:raises NotDelivered: as the sender's own does."""
        self._create().send(message)


def _read_mail_server(conf: cfg.ConfigOpts) -> MailServer:
    options = conf.smtp
    if options.user and options.security == "none":
        raise ValueError("[smtp] user: a password is not sent in the clear; set security to starttls or tls")
    try:
        check_address_form(options.sender)
    except TargetRefused as error:
        raise ValueError(f"[smtp] sender = {options.sender}: {error}") from error
    return MailServer(
        host=options.host,
        port=options.port,
        security=options.security,
        user=options.user or None,
        password_file=options.password_file,
        sender=options.sender,
    )
