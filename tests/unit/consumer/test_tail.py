"""What ``crashcart-notifications tail`` shows, of what, and in which words."""

import json
from collections.abc import Sequence

import pytest
from oslo_config import cfg

from compute_agent.consumer import Disbelieved, Event, Gap, GapState, Notification, Unreadable
from compute_agent.contract.events import EVENT_TYPES
from compute_agent.contract.models import OPEN_END
from compute_agent.tail.command_line import EXIT_FAILED, load_config
from compute_agent.tail.following import Lines, main
from compute_agent.tail.sentences import KNOWN_TYPES, build_sentence, describe_event, describe_gap
from tests.contract import golden


def show(arguments: Sequence[str], *told: Event | Gap | Unreadable | Disbelieved) -> list[str]:
    lines: list[str] = []
    shown = Lines(load_config(["tail", *arguments]).command, lines.append)
    for one in told:
        shown.show(one)
    return lines


def make_told(event_type: str) -> Event:
    return Event(golden.make_notification(event_type))


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_each_type_has_a_sentence_of_its_own(event_type: str) -> None:
    assert event_type in KNOWN_TYPES
    line = describe_event(make_told(event_type))
    assert line.startswith("2026-03-01 12:30:00.250Z  ")
    assert "{" not in line, "the payload as it is is for types that are not known"
    assert event_type in line


def test_an_ending_is_told_with_its_code_and_its_reason() -> None:
    payload = make_told("action.ended").notification.payload
    sentence = build_sentence("action.ended", payload | {"ending": "failed", "code": "server_moved", "reason": "It went."})
    assert sentence == f"trigger_crash_dump {golden.ACTION_ID} failed, server_moved: It went."


def test_a_journal_that_is_lost_to_its_end_is_told_without_a_number_that_nobody_knows() -> None:
    payload = make_told("events.lost").notification.payload | {"lost_epoch": "j", "first": 18, "reason": "It is gone."}
    assert build_sentence("events.lost", payload | {"last": 20}) == "18 to 20 of journal j: It is gone."
    assert build_sentence("events.lost", payload | {"last": OPEN_END}) == "18 to the end of journal j: It is gone."


def test_a_type_or_a_payload_of_a_later_release_is_shown_as_it_is() -> None:
    later = Notification("id", "server.teleported", "agent", "fatal", "2026-01-01 00:00:00.0", {"server": "s", "to": "mars", "sequence": 3})
    assert (
        describe_event(Event(later, late=True)) == '2026-01-01 00:00:00.0  FATAL  server.teleported         server s  (late) {"to": "mars"}'
    )
    assert build_sentence("action.ended", {"ending": "succeeded", "epoch": "e"}) == '{"ending": "succeeded"}'
    assert show(["--severity", "error"], Event(later)) != [], "its severity may be above all that are known"


def test_nothing_that_somebody_wrote_into_an_event_reaches_the_terminal_as_a_command() -> None:
    hostile = Notification("id", "x", "p", "info", "now\x1b[2J", {"server": "\x1b]0;", "text": "\x1b[31m\n\x9b"})
    (line,) = show([], Event(hostile))
    assert line.isprintable()
    (line,) = show(["--json"], Event(hostile))
    assert line.isprintable()
    assert json.loads(line)["payload"] == hostile.payload


def test_options_narrow_what_is_shown_and_gaps_are_shown_whatever_is_asked_for() -> None:
    told = [make_told(name) for name in EVENT_TYPES]
    gap = Gap("journal", "host-9", 3, 3, GapState.MISSING)
    lines = show(["--type", "server.watchdog.*", "--type", "agent.up", "--severity", "warn"], *told, gap)
    assert [line.split()[3] for line in lines[:-1]] == ["server.watchdog.fired", "server.watchdog.drifted"]
    assert lines[-1] == "--- 1 event of journal journal of host host-9 is missing after 2; they may come yet"
    assert show(["--server", "00000000-0000-4000-8000-000000000000"], *told) == []
    assert show(["--host", "other"], *told, gap) == []
    assert len(show(["--server", golden.SERVER_ID, "--host", golden.HOST], *told)) > 10


def test_json_has_one_object_a_line_and_says_what_each_is() -> None:
    gap = Gap("journal", "host", 3, 4, GapState.LOST, "purged")
    lines = show(["--json"], make_told("agent.up"), gap, Unreadable("no JSON", b"\xff"))
    event, told_gap, unreadable = map(json.loads, lines)
    assert event == {"told": "event", "late": False, "sender": None} | vars(golden.make_notification("agent.up"))
    assert told_gap == {"told": "gap", "epoch": "journal", "host": "host", "first": 3, "last": 4, "state": "lost", "reason": "purged"}
    assert unreadable == {"told": "unreadable", "reason": "no JSON", "body": "\N{REPLACEMENT CHARACTER}"}
    assert describe_gap(gap) == "--- 2 events of journal journal of host host are lost after 2: purged"
    assert show([], Unreadable("no JSON", b"x")) == ["--- a message that cannot be read: no JSON"]


@pytest.mark.parametrize(
    "wrong",
    [["--count", "0"], ["--timeout", "-1"], ["--patience", "nan"], ["--severity", "fatal"], ["--timeout", "x"], ["--server", "web-1"]],
)
def test_a_command_line_that_makes_no_sense_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tail", *wrong])
    assert ended.value.code == 2


def test_a_configuration_without_a_broker_is_refused_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail"]) == EXIT_FAILED
    assert capsys.readouterr().err.startswith("crashcart-notifications: transport_url names no broker: it is rabbit://")


def test_the_transport_url_is_no_option_as_everybody_sees_command_lines() -> None:
    command = load_config(["tail"])
    assert isinstance(command, cfg.ConfigOpts)
    assert "transport_url" not in vars(command.command)


def test_what_is_not_believed_is_shown_as_such_and_who_sent_an_event_is_in_its_json() -> None:
    event = make_told("server.paused")
    forged = Disbelieved("account 'agent.x' spoke for host 'y'", event.notification, "agent.x")
    assert show([], forged) == ["--- an event that is not believed: account 'agent.x' spoke for host 'y'"]
    (line,) = show(["--json"], forged)
    assert (json.loads(line)["told"], json.loads(line)["sender"]) == ("disbelieved", "agent.x")
    (line,) = show(["--json"], Event(event.notification, sender="agent.z"))
    assert (json.loads(line)["told"], json.loads(line)["sender"]) == ("event", "agent.z")
