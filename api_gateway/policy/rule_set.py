"""The policy in force: the defaults and what ``policy.yaml`` says instead, evaluated by oslo.policy.

oslo.policy reloads its files inside ``enforce``, rule by rule: beside other threads that leaves moments with half of the rules. Here each
change makes a new enforcer, which replaces the old one whole, or not at all when the new files are wrong.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_policy.policy import AndCheck, Enforcer, InvalidDefinitionError, NotCheck, OrCheck, RuleCheck, RuleDefault

from api_gateway.identity import Caller, Identity
from api_gateway.policy.defaults import ADMIN, list_rules
from api_gateway.reloading import Reloaded, Unreadable
from compute_agent.contract.clock import Clock

LOG = logging.getLogger(__name__)

_MOST_DECISIONS = 4096
_Always, _Never, _Role, _Attribute = (type(RuleDefault("example", text).check) for text in ("@", "!", "role:example", "user_id:example"))
_PURE = (_Always, _Never, _Role, _Attribute, RuleCheck, AndCheck, OrCheck, NotCheck)
"""What is decided by the question alone."""


class RuleSet:
    """Rules that do not change any more. Implements :class:`api_gateway.identity.Rules`.

    Remembers its decisions: oslo.policy takes 50 to 100 µs for one of the default rules, and the same few questions come again and again.
    Rules that ask somebody else (``http:``) are asked each time.
    """

    def __init__(self, enforcer: Enforcer) -> None:
        enforcer.use_conf = False  # never reloads by itself from here on
        self._enforcer = enforcer
        self._decisions: dict[tuple[Caller, str, str], bool] = {}
        self._lasting = {name for name in enforcer.rules if _is_pure(enforcer, enforcer.rules[name])}

    def allow(self, caller: Caller, rule: str, project: str) -> bool:
        """Whether ``rule`` lets ``caller`` act on what ``project`` owns.

        :raises oslo_policy.policy.PolicyNotRegistered: there is no such rule.
        """
        question = (caller, rule, project)
        known = self._decisions.get(question)
        if known is not None:
            return known
        decision = bool(self._enforcer.authorize(rule, {"project_id": project}, _describe(caller)))
        if self.is_lasting(rule):
            if len(self._decisions) >= _MOST_DECISIONS:
                self._decisions.clear()
            self._decisions[question] = decision
        return decision

    def is_lasting(self, rule: str) -> bool:
        """Whether a decision may be remembered: the question alone decides."""
        return rule in self._lasting


class Policy:
    """The rules of one application, reread when their files change."""

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock) -> None:
        """Read them for the first time.

        :raises Unreadable: the files cannot be used; the text says why.
        """
        self._conf = conf
        self._found: str | None = None
        self._rules = Reloaded(self._load, self._list_paths, clock)

    def identify(self, caller: Caller) -> Identity:
        """``caller`` with the rules that judge it from here to the end of its request."""
        rules = self._rules.get()
        return Identity(caller, rules.allow(caller, ADMIN, caller.project), rules)

    def _list_paths(self) -> list[str]:
        """The files and directories that decide: those that exist, and one that is gone."""
        group = self._conf.oslo_policy
        paths = [self._find_file() or self._found]
        for name in group.policy_dirs:
            directory = self._conf.find_file(name)
            if directory is not None and os.path.isdir(directory):
                paths += [directory, *(os.path.join(directory, entry) for entry in sorted(os.listdir(directory)))]
        return [path for path in paths if path is not None]

    def _find_file(self) -> str | None:
        found: str | None = self._conf.find_file(self._conf.oslo_policy.policy_file)
        return found

    def _load(self) -> RuleSet:
        path = self._find_file()
        named = self._conf.oslo_policy.policy_file
        if path is None and (self._found is not None or self._is_named()):
            raise Unreadable(f"the policy file {self._found or named} does not exist")
        enforcer = Enforcer(self._conf)
        enforcer.register_defaults(list_rules())
        try:
            if path is not None:
                Path(path).read_text()  # oslo.policy would take a file that it cannot read for an empty one
            enforcer.load_rules(force_reload=True)
            _check_texts(enforcer)
            enforcer.check_rules(raise_on_violation=True)
        except InvalidDefinitionError as error:
            raise Unreadable(f"{path or named}: a rule refers to one that does not exist, or to itself: {error}") from error
        except (ValueError, TypeError, AttributeError, OSError, cfg.Error) as error:
            raise Unreadable(f"{path or named} is not a policy file (a YAML mapping of rule names to rules): {error}") from error
        self._found = path
        _warn_of_unknown(enforcer)
        return RuleSet(enforcer)

    def _is_named(self) -> bool:
        """Whether the configuration names the file, so that its absence is a mistake."""
        location = self._conf.get_location("policy_file", "oslo_policy")
        return location is not None and location.location.is_user_controlled


def get_enforcer() -> Enforcer:
    """For oslo.policy's command line tools (entry point ``oslo.policy.enforcer``), which configure the process's own ``cfg.CONF``."""
    enforcer = Enforcer(cfg.CONF)
    enforcer.register_defaults(list_rules())
    return enforcer


def _describe(caller: Caller) -> dict[str, object]:
    """What rules may ask about: the names are oslo.policy's."""
    attributes: dict[str, object] = {"user_id": caller.user, "project_id": caller.project, "roles": sorted(caller.roles)}
    if caller.user_domain is not None:
        attributes["user_domain_id"] = caller.user_domain
    if caller.project_domain is not None:
        attributes["project_domain_id"] = caller.project_domain
    return attributes


def _check_texts(enforcer: Enforcer) -> None:
    """Refuse what oslo.policy would quietly take for "never" or "always", or would stumble over at a request.

    :raises ValueError: a rule cannot be understood.
    """
    for name, rule in enforcer.file_rules.items():
        text = rule.check_str
        if not isinstance(text, str | list):
            raise ValueError(f'rule {name} has no text; "@" lets everybody in, "!" nobody')
        for check in _walk([rule.check]):
            if isinstance(check, _Never) and "!" not in str(text):
                raise ValueError(f"rule {name} cannot be understood: {text}")
            if isinstance(check, (_Role, _Attribute)):
                try:
                    check({"project_id": ""}, {"roles": []}, enforcer)
                except (ValueError, TypeError, SyntaxError) as error:
                    raise ValueError(f"rule {name} cannot be evaluated: {text}: {error}") from error


def _warn_of_unknown(enforcer: Enforcer) -> None:
    referred = {check.match for check in _walk(enforcer.rules.values()) if isinstance(check, RuleCheck)}
    unknown = sorted(set(enforcer.file_rules) - set(enforcer.registered_rules) - referred)
    if unknown:
        LOG.warning("the policy file has rules that nothing asks for, see doc/policy.rst for the names: %s", ", ".join(unknown))


def _is_pure(enforcer: Enforcer, check: Any) -> bool:
    """Whether only the question decides; the rules are known to refer to each other without circles."""
    for part in _walk([check]):
        if not isinstance(part, _PURE):
            return False
        if isinstance(part, RuleCheck) and not _is_pure(enforcer, enforcer.rules[part.match]):
            return False
    return True


def _walk(roots: Iterable[Any]) -> Iterator[Any]:
    for check in roots:
        yield check
        inner = getattr(check, "rules", None) or ([check.rule] if isinstance(check, NotCheck) else [])
        yield from _walk(inner)
