"""What is withheld from whom of an event, in the list, the stream and notifications alike."""

import json
from pathlib import Path

import pytest

from api_gateway.config import load_config
from api_gateway.identity import Caller, Identity
from api_gateway.native import event_view
from api_gateway.native.event_view import HOSTS, RULE_OF_RESULT, find_shown, find_withheld, is_visible, view_event
from api_gateway.policy.rule_set import Policy
from api_gateway.store.events import EventRow
from compute_agent.contract.clock import SystemClock
from compute_agent.contract.events import EVENT_TYPES
from tests.contract import golden

ALL = frozenset({HOSTS, *RULE_OF_RESULT})


def build_row(event_type: str, **changes: object) -> EventRow:
    payload = golden.make_payload(event_type) if event_type in EVENT_TYPES else {"host": golden.HOST, "above": golden.HOST}
    values = {
        "position": 7,
        "message_id": "m7",
        "event_type": event_type,
        "severity": "info",
        "server": golden.SERVER_ID,
        "host": golden.HOST,
        "epoch": golden.JOURNAL_ID,
        "sequence": 3,
        "action_id": None,
        "occurred_at": golden.MOMENT,
        "recorded_at": golden.LATER,
        "payload": payload,
        "project": "demo",
    }
    return EventRow(**(values | changes))  # type: ignore[arg-type]


def identify(tmp_path: Path, role: str, project: str = "demo", **rules: str) -> Identity:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(rules))
    conf = load_config([], config_files=[])
    conf.set_override("policy_file", str(path), group="oslo_policy")
    return Policy(conf, SystemClock()).identify(Caller.of("somebody", project, frozenset({role})))


@pytest.mark.parametrize("event_type", [*sorted(EVENT_TYPES.keys() - golden.HOST_EVENTS), "server.of_tomorrow"])
def test_no_event_tells_on_which_host_it_was_those_who_may_not_see_hosts(event_type: str) -> None:
    told = json.dumps(view_event(build_row(event_type), ALL))
    assert golden.HOST not in told
    assert golden.JOURNAL_ID not in told
    assert "sequence" not in told
    assert golden.HOST in json.dumps(view_event(build_row(event_type), ALL - {HOSTS})) or event_type in RULE_OF_RESULT


@pytest.mark.parametrize("event_type", sorted(RULE_OF_RESULT))
def test_the_list_is_no_way_round_the_rule_of_a_result(event_type: str) -> None:
    row = build_row(event_type)
    withheld = view_event(row, {event_type})
    assert withheld["payload"] is None
    assert withheld["host"] == golden.HOST
    assert view_event(row, ALL - {HOSTS, event_type})["payload"] == row.payload


def test_where_a_watchdog_had_the_memory_written_is_for_those_who_may_see_host_dumps() -> None:
    row = build_row("server.watchdog.outcome", payload={"text": "It is in /var/dump.", "dump_path": "/var/dump", "dump_bytes": 5})
    assert view_event(row, ALL)["payload"] == {"text": "It is in a file on its host.", "dump_bytes": 5}
    assert view_event(row, {HOSTS})["payload"] == row.payload


def test_what_is_withheld_is_what_the_policy_does_not_allow(tmp_path: Path) -> None:
    assert find_withheld(identify(tmp_path, "admin"), "demo") == frozenset()
    assert find_withheld(identify(tmp_path, "member"), "demo") == ALL
    for word, rule in {HOSTS: "os_compute_api:os-extended-server-attributes", **RULE_OF_RESULT}.items():
        member = identify(tmp_path, "member", **{rule: "rule:project_member_api"})
        assert find_withheld(member, "demo") == ALL - {word}
        assert find_withheld(member, "other") == ALL


def test_what_is_of_everybody_takes_more_than_being_in_some_project(tmp_path: Path) -> None:
    rule = RULE_OF_RESULT["server.diagnostics"]
    admin = identify(tmp_path, "admin", **{rule: "rule:project_reader_api"})
    assert find_withheld(admin, None) == {"server.diagnostics"}
    assert find_withheld(admin, "demo") == frozenset()


def test_what_a_later_release_keeps_for_some_is_withheld_from_who_subscribed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    shown_today = find_shown({HOSTS})
    assert find_shown(shown_today) == {HOSTS}
    monkeypatch.setitem(event_view._RULES, "server.of_tomorrow", "crashcart:tomorrow:show")
    assert find_shown(shown_today) == {HOSTS, "server.of_tomorrow"}


def test_members_see_their_projects_events_and_admins_all(tmp_path: Path) -> None:
    own, others, nobodys = build_row("server.started"), build_row("server.started", project="other"), build_row("agent.up", project=None)
    member, admin = identify(tmp_path, "member"), identify(tmp_path, "admin")
    assert [is_visible(row, member) for row in (own, others, nobodys)] == [True, False, False]
    assert [is_visible(row, admin) for row in (own, others, nobodys)] == [True, True, True]
