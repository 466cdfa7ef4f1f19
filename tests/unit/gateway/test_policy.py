"""Who may do what: every rule for every role and project, what operators may change, and what happens when they slip."""

import logging
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_policy import generator
from oslo_policy.policy import PolicyNotRegistered

import api_gateway
from api_gateway.config import load_config
from api_gateway.identity import Caller
from api_gateway.policy import is_permitted
from api_gateway.policy.defaults import list_rules
from api_gateway.policy.rule_set import Policy
from api_gateway.reloading import Unreadable
from tests.fakes import FakeClock
from tests.forks import run_in_fork

READER_RULES = {
    "crashcart:events:list",
    "crashcart:events:show",
    "crashcart:events:stream",
    "os_compute_api:servers:index",
    "os_compute_api:servers:detail",
    "os_compute_api:servers:show",
    "os_compute_api:os-instance-actions:list",
    "os_compute_api:os-instance-actions:show",
    "crashcart:servers:list",
    "crashcart:servers:show",
    "crashcart:actions:list",
    "crashcart:actions:show",
    "crashcart:watchdog:show",
    "crashcart:watchdog_models:list",
    "crashcart:subscriptions:list",
    "crashcart:subscriptions:show",
    "crashcart:subscriptions:deliveries",
}
MEMBER_RULES = {
    "os_compute_api:servers:trigger_crash_dump",
    "os_compute_api:os-lock-server:lock",
    "os_compute_api:os-lock-server:unlock",
    "crashcart:actions:cancel",
    "crashcart:actions:resume",
    "crashcart:watchdog:set",
    "crashcart:watchdog:remove",
    "crashcart:watchdog:reset_timer",
    "crashcart:subscriptions:create",
    "crashcart:subscriptions:delete",
}
ADMIN_RULES = {
    "os_compute_api:servers:index:get_all_tenants",
    "os_compute_api:servers:detail:get_all_tenants",
    "os_compute_api:servers:show:host_status",
    "os_compute_api:os-extended-server-attributes",
    "os_compute_api:os-server-diagnostics",
    "os_compute_api:os-lock-server:unlock:unlock_override",
    "os_compute_api:os-instance-actions:events",
    "os_compute_api:os-instance-actions:events:details",
    "crashcart:servers:update",
    "crashcart:servers:forget",
    "crashcart:actions:force",
    "crashcart:actions:take_host_dump",
    "crashcart:diagnostics:show",
    "crashcart:diagnostics:collect",
    "crashcart:black_box:show",
    "crashcart:agents:list",
}
RULES = READER_RULES | MEMBER_RULES | ADMIN_RULES
ROLES = ("admin", "member", "reader", "stranger")
OWN, OTHER = "demo", "other"
DUMP = "os_compute_api:servers:trigger_crash_dump"


def create_policy(tmp_path: Path, text: str | None = None, *, clock: FakeClock | None = None, options: str = "") -> Policy:
    """A policy whose configuration lies in ``tmp_path``; ``text`` is its ``policy.yaml``."""
    (tmp_path / "gateway.conf").write_text(options)
    if text is not None:
        (tmp_path / "policy.yaml").write_text(text)
    conf = load_config(["--config-file", str(tmp_path / "gateway.conf")], prog="test")
    return Policy(conf, clock or FakeClock())


def caller(*roles: str, project: str = OWN, user: str = "u-1") -> Caller:
    return Caller(user, project, frozenset(roles))


def expand(role: str) -> Caller:
    return Caller.of("u-1", OWN, frozenset({role}))


def find_rules_in_code() -> set[str]:
    texts = [path.read_text() for path in Path(api_gateway.__file__).parent.rglob("*.py") if path.parent.name != "policy"]
    return {name for text in texts for name in re.findall(r'"((?:os_compute_api|crashcart):[a-z_:-]+)"', text)}


def test_the_table_has_every_rule_and_the_code_asks_for_no_other(tmp_path: Path) -> None:
    documented = {rule.name for rule in list_rules() if ":" in rule.name}
    assert documented == RULES
    assert find_rules_in_code() <= documented


@pytest.mark.parametrize("project", [OWN, OTHER])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_in_its_own_project_what_the_table_says_and_an_admin_everywhere(tmp_path: Path, role: str, project: str) -> None:
    allowed = {
        "admin": RULES,
        "member": READER_RULES | MEMBER_RULES if project == OWN else set(),
        "reader": READER_RULES if project == OWN else set(),
        "stranger": set(),
    }[role]
    identity = create_policy(tmp_path).identify(expand(role))
    assert {rule for rule in RULES if is_permitted(identity, rule, project)} == allowed
    assert identity.is_admin == (role == "admin")


def test_without_a_project_the_callers_own_is_meant(tmp_path: Path) -> None:
    policy = create_policy(tmp_path)
    assert is_permitted(policy.identify(caller("reader")), "os_compute_api:servers:index")
    assert not is_permitted(policy.identify(caller("reader")), "os_compute_api:servers:index:get_all_tenants")


def test_an_identity_service_that_implies_no_roles_is_not_overruled(tmp_path: Path) -> None:
    identity = create_policy(tmp_path).identify(caller("member"))
    assert is_permitted(identity, DUMP)
    assert not is_permitted(identity, "os_compute_api:servers:show")


def test_a_rule_that_nobody_defined_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(PolicyNotRegistered):
        is_permitted(create_policy(tmp_path).identify(caller("admin")), "crashcart:no-such-rule")


def test_an_operator_changes_who_may_do_what(tmp_path: Path) -> None:
    policy = create_policy(tmp_path, f'"{DUMP}": "role:oncall and project_id:%(project_id)s"\n"os_compute_api:servers:show": "@"\n')
    assert is_permitted(policy.identify(caller("oncall")), DUMP)
    assert not is_permitted(policy.identify(caller("oncall")), DUMP, OTHER)
    assert not is_permitted(policy.identify(caller("admin", "member")), DUMP)
    assert is_permitted(policy.identify(caller()), "os_compute_api:servers:show", OTHER)


def test_an_operator_changes_who_is_an_admin_in_one_place(tmp_path: Path) -> None:
    policy = create_policy(tmp_path, '"context_is_admin": "role:operator or user_id:u-9"\n')
    assert policy.identify(caller("operator")).is_admin
    assert policy.identify(caller(user="u-9")).is_admin
    assert is_permitted(policy.identify(caller("operator")), "crashcart:agents:list")
    assert not policy.identify(caller("admin")).is_admin
    assert not is_permitted(policy.identify(caller("admin")), "crashcart:agents:list")


def test_files_of_the_policy_directory_count_as_well(tmp_path: Path) -> None:
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d" / "dump.yaml").write_text(f'"{DUMP}": "!"\n')
    assert not is_permitted(create_policy(tmp_path).identify(caller("admin")), DUMP)


def test_a_changed_file_takes_effect_for_the_requests_that_come_after(tmp_path: Path) -> None:
    clock = FakeClock()
    policy = create_policy(tmp_path, clock=clock)
    before = policy.identify(caller("member"))
    (tmp_path / "policy.yaml").write_text(f'"{DUMP}": "!"\n')
    clock.advance(1)
    assert not is_permitted(policy.identify(caller("member")), DUMP)
    assert is_permitted(before, DUMP), "one request is judged by one set of rules"
    (tmp_path / "policy.yaml").write_text(f'"{DUMP}": "@"\n# and back\n')
    clock.advance(1)
    assert is_permitted(policy.identify(caller()), DUMP)


BROKEN = {
    "not YAML": "a: [",
    "not a mapping": "- a\n- b\n",
    "only a word": "hello",
    "a rule without a text": f'"{DUMP}":\n',
    "a rule that is a number": f'"{DUMP}": 5\n',
    "a text that is no rule": f'"{DUMP}": "whoever likes"\n',
    "half a text that is no rule": f'"{DUMP}": "role:member or whoever"\n',
    "a reference to nothing": f'"{DUMP}": "rule:no_such_rule"\n',
    "a circle": '"a": "rule:b"\n"b": "rule:a"\n',
    "a broken substitution": f'"{DUMP}": "project_id:%(project_id)"\n',
    "bytes": "\ud800",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_at_start_and_changes_nothing_later(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(Unreadable, match=re.escape(str(path))):
        create_policy(tmp_path)

    clock = FakeClock()
    policy = create_policy(tmp_path, f'"{DUMP}": "role:oncall"\n', clock=clock)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for _ in range(3):
        clock.advance(1)
        assert is_permitted(policy.identify(caller("oncall")), DUMP)
        assert not is_permitted(policy.identify(caller("admin")), DUMP)
    assert len([record for record in caplog.records if "stays in force" in record.message]) == 1


def test_a_file_that_goes_away_does_not_open_what_it_had_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    policy = create_policy(tmp_path, f'"{DUMP}": "!"\n', clock=clock)
    (tmp_path / "policy.yaml").unlink()
    clock.advance(1)
    assert not is_permitted(policy.identify(caller("admin")), DUMP)
    assert "does not exist" in caplog.text


def test_a_policy_file_that_is_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"polizy\.yaml"):
        create_policy(tmp_path, options="[oslo_policy]\npolicy_file = polizy.yaml\n")


def test_a_file_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").mkdir()
    with pytest.raises(Unreadable):
        create_policy(tmp_path)


def test_a_rule_that_nothing_asks_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        create_policy(tmp_path, f'"os_compute_api:servers:triger": "@"\n"oncall": "role:oncall"\n"{DUMP}": "rule:oncall"\n')
    assert [record.args for record in caplog.records if record.name.startswith("api_gateway")] == [("os_compute_api:servers:triger",)]


def test_a_rule_that_asks_another_service_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oslo_policy import _external

    answers = iter([True, False])
    monkeypatch.setattr(_external.HttpCheck, "__call__", lambda *_: next(answers))
    identity = create_policy(tmp_path, f'"{DUMP}": "rule:remote"\n"remote": "http://127.0.0.1/judge"\n').identify(caller("member"))
    assert [is_permitted(identity, DUMP), is_permitted(identity, DUMP)] == [True, False]


def test_only_so_many_decisions_are_remembered(tmp_path: Path) -> None:
    policy = create_policy(tmp_path)
    for number in range(5000):
        identity = policy.identify(caller("member", user=f"u-{number}"))
    assert is_permitted(identity, DUMP)
    assert len(identity.rules._decisions) <= 4096  # type: ignore[attr-defined]


def test_the_sample_generator_writes_every_rule_as_a_file_that_changes_nothing(tmp_path: Path) -> None:
    sample = tmp_path / "sample.yaml"
    generator.generate_sample(["--namespace", "crashcart", "--output-file", str(sample)], conf=cfg.ConfigOpts())
    text = sample.read_text()
    assert {name for name in RULES if f'#"{name}": ' in text} == RULES
    assert is_permitted(create_policy(tmp_path, text).identify(caller("member")), DUMP)


def test_the_validator_knows_our_rules(tmp_path: Path) -> None:
    conf, rules, output = tmp_path / "gateway.conf", tmp_path / "policy.yaml", tmp_path / "output"
    conf.write_text(f"[oslo_policy]\npolicy_file = {rules}\n")
    rules.write_text(f'"{DUMP}": "role:oncall"\n"os_compute_api:servers:triger": "role:oncall"\n')

    def validate() -> None:
        with output.open("w") as written, redirect_stdout(written):
            generator.validate_policy(["--namespace", "crashcart", "--config-file", str(conf)])

    assert run_in_fork(validate) == 1
    assert output.read_text() == "Unknown rule found in policy file: os_compute_api:servers:triger\n"
