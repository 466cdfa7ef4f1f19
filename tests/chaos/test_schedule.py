"""The schedule of faults: the same for the same seed, everything in turn, and nothing twice at a time."""

from itertools import combinations

from tests.chaos.schedule import Draw, Strike, draw_schedule

FAULTS = {
    "kill": Draw(("api", "broker"), (1.0, 5.0), 2, {"api": frozenset({"api"}), "broker": frozenset({"broker"})}),
    "alarm": Draw(("broker",), (2.0, 4.0), 1, {"broker": frozenset({"broker"})}),
    "cut": Draw(("link",), (5.0, 20.0), 1, {"link": frozenset({"link", "broker"})}),
}


def draw(seed: str = "1", seconds: float = 600.0) -> list[Strike]:
    return draw_schedule(seed, FAULTS, seconds=seconds, pause=(1.0, 3.0), combined=0.7)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert draw("7") == draw("7") != draw("8")


def test_every_fault_is_over_when_the_time_is() -> None:
    assert all(strike.at + strike.duration <= 60.0 for strike in draw(seconds=60.0))


def test_no_two_faults_need_one_part_at_a_time() -> None:
    for first, second in combinations(draw(), 2):
        if FAULTS[first.fault].needs[first.target] & FAULTS[second.fault].needs[second.target]:
            assert first.at + first.duration < second.at or second.at + second.duration < first.at


def test_faults_are_combined() -> None:
    strikes = draw()
    assert any(later.at < strike.at + strike.duration for strike, later in combinations(strikes, 2) if strike.number < later.number)


def test_every_fault_comes_before_any_comes_more_often_than_its_weight() -> None:
    assert {strike.fault for strike in draw()[:4]} == set(FAULTS)


def test_every_target_comes_before_any_comes_again() -> None:
    assert {strike.target for strike in [strike for strike in draw() if strike.fault == "kill"][:2]} == {"api", "broker"}


def test_what_lasts_too_long_leaves_its_time_to_others() -> None:
    strikes = draw(seconds=30.0)
    assert strikes[-1].at + strikes[-1].duration > 24.0
