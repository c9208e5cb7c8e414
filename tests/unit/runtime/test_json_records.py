"""JSON from outside becomes a valid record or an InvalidJson, whatever it holds."""

from __future__ import annotations

import enum
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcli.errors import ConfigError
from medcli.runtime.json_records import InvalidJson, as_record, parse_json, read_json, read_record


class Kind(enum.Enum):
    A = "a"
    B = "b"


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = field(metadata={"min": 1, "max": 8})

    def __post_init__(self) -> None:
        if self.size == 7:
            raise ConfigError("7 is unlucky")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    scale: float = field(default=1.0, metadata={"above": 0})
    shape: tuple[int, int] = (1, 2)
    steps: tuple[int, ...] = field(default=(), metadata={"min": 0})
    mode: Literal["x", "y"] = "x"
    kind: Kind = Kind.A
    inner: Inner | None = None
    rest: dict[str, float] = field(default_factory=dict)
    notes: list[Any] = field(default_factory=list)
    is_on: bool = False


GOOD: dict[str, Any] = {
    "name": "n",
    "scale": 2,
    "shape": [3, 4],
    "steps": [0, 5],
    "mode": "y",
    "kind": "b",
    "inner": {"size": 2},
    "rest": {"a": 1.5},
    "notes": [{"x": [None]}],
    "is_on": True,
}


def test_a_valid_object_becomes_the_record(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(GOOD))
    record = read_record(Outer, tmp_path / "x.json")
    assert asdict(record) == {**GOOD, "scale": 2.0, "shape": (3, 4), "steps": (0, 5), "kind": Kind.B}
    assert type(record.scale) is float
    assert as_record(Outer, {"name": "n", "extra": 1}, ignore_unknown=True) == Outer(name="n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 1}, "name is 1, expected a text"),
        ({"scale": "x"}, 'scale is "x", expected a number'),
        ({"scale": True}, "scale is true"),
        ({"scale": 0}, "scale is 0.0, expected above 0"),
        ({"shape": [1]}, "shape is [1], expected a list of 2"),
        ({"shape": [1, "2"]}, "shape[1]"),
        ({"steps": [1, -1]}, "steps[1] is -1, expected at least 0"),
        ({"steps": 3}, "steps is 3, expected a list"),
        ({"mode": "z"}, "mode"),
        ({"kind": "z"}, "kind is"),
        ({"inner": {"size": 9}}, "inner.size is 9, expected at least 1 and at most 8"),
        ({"inner": {"size": 7}}, "7 is unlucky"),
        ({"inner": {"size": 2, "more": 1}}, "unknown key inner.'more'"),
        ({"inner": {}}, "inner.size is missing"),
        ({"rest": {"a": "b"}}, "rest.a"),
        ({"rest": []}, "rest is [], expected an object"),
        ({"is_on": 1}, "is_on is 1, expected true or false"),
        ({"steps": [2**64]}, "expected at least 0"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        as_record(Outer, {**GOOD, **change})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "nan", "[NaN]", "[Infinity]", "[-Infinity]", "[1e999]", '{"a": 1, "a": 2}', "[" * 100_000),
        *(
            "[" * 500 + "]" * 500,
            '{"a":' * 200 + "1" + "}" * 200,
            "9" * 5000,
            "9" * 41,
            b"\xff\xfe",
            "[1] x",
        ),
    ],
)
def test_what_is_no_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_json(text)


def test_a_file_is_not_read_beyond_its_bound(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps("a" * 100))
    assert read_json(tmp_path / "x", 102) == "a" * 100
    with pytest.raises(InvalidJson, match="more than 101 bytes"):
        read_json(tmp_path / "x", 101)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_no_value_breaks_it(name: str, value: Any) -> None:
    problem = ""
    try:
        assert isinstance(as_record(Outer, {**GOOD, name: value}), Outer)
    except InvalidJson as err:
        problem = str(err)
    assert "\n" not in problem


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_no_text_breaks_it(text: str | bytes) -> None:
    with suppress(InvalidJson):
        parse_json(text)
