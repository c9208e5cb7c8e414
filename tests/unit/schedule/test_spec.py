import json
from typing import Any

import pytest

from medcli.errors import ConfigError
from medcli.schedule.dynamic import DynamicSchedule
from medcli.schedule.spec import FULL, Schedule, choose_schedule, static

HELD = (4, 16, 64)


def choose(**given: Any) -> Schedule:
    return choose_schedule(**{"kind": None, "counts": None, "rho": None, "held": HELD, **given})


def test_without_any_wish_a_ladder_of_three_is_dynamic_with_known_thresholds() -> None:
    assert choose() == Schedule(kind="dynamic", counts=HELD, rho=(0.3, 0.1))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"held": ()}, FULL),
        ({"held": (16,)}, static(16)),
        ({"held": (4, 16)}, static(16)),
        ({"kind": "full"}, FULL),
        ({"counts": (0,)}, FULL),
        ({"kind": "static"}, static(64)),
        ({"counts": (4,)}, static(4)),
        ({"counts": (4, 64), "rho": (0.5,)}, Schedule(kind="dynamic", counts=(4, 64), rho=(0.5,))),
        ({"rho": (0.6, 0.2)}, Schedule(kind="dynamic", counts=HELD, rho=(0.6, 0.2))),
    ],
)
def test_what_is_left_open_follows_from_what_is_given(given: dict[str, Any], expected: Schedule) -> None:
    assert choose(**given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rho": (0.1, 0.3)}, "must fall"),
        ({"rho": (0.3, 0.3)}, "must fall"),
        ({"rho": (0.3, 0.0)}, "above 0"),
        ({"rho": (float("nan"), 0.1)}, "must fall"),
        ({"rho": (0.3,)}, "expected 2"),
        ({"rho": (0.3, 0.2, 0.1)}, "expected 2"),
        ({"counts": (4, 16), "kind": "dynamic"}, "needs --rho"),
        ({"counts": (16, 4), "rho": (0.3,)}, "must rise"),
        ({"counts": (5,)}, "not in this checkpoint's ladder"),
        ({"counts": (4, 16), "kind": "static"}, "takes one"),
        ({"counts": (4,), "kind": "full"}, "uses no mediators"),
        ({"counts": (0,), "kind": "static"}, "full attention"),
        ({"kind": "static", "held": ()}, "has no mediators"),
        ({"kind": "dynamic", "held": (16,)}, "at least two"),
        ({"kind": "dynamic", "held": ()}, "at least two"),
        ({"kind": "static", "rho": (0.3, 0.1)}, "for the dynamic schedule"),
        ({"kind": "sometimes"}, "expected one of"),
        ({"distance": "l3"}, "expected one of"),
        ({"warmup_steps": -1}, "at least 1"),
    ],
)
def test_contradictions_are_refused_with_a_way_out(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose(**given)
    assert caught.value.hint or given.keys() & {"kind", "distance", "warmup_steps"}


def test_hint_for_thresholds_is_itself_accepted() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(rho=(0.1, 0.3))
    assert caught.value.hint is not None
    rho = tuple(float(part) for part in caught.value.hint.rsplit(" ", 1)[1].split(","))
    assert choose(rho=rho).rho == rho


def test_schedule_knows_its_rule_and_its_json() -> None:
    schedule = choose(rho=(0.6, 0.2), warmup_steps=5, distance="l2")
    assert schedule.rule() == DynamicSchedule(ladder=HELD, rho=(0.6, 0.2), warmup_steps=5)
    assert json.loads(json.dumps(schedule.to_json())) == schedule.to_json()
    assert FULL.to_json() == {"kind": "full", "counts": [0]}
    with pytest.raises(ConfigError):
        FULL.rule()
