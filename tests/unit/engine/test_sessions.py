import json
from pathlib import Path

from medcli.engine.sessions import Session, read_sessions, wall_seconds


def test_time_of_sessions_side_by_side_counts_once() -> None:
    beside = [Session(images=1, seconds=10, start=100.0), Session(images=2, seconds=10, start=104.0)]
    assert wall_seconds(beside) == 14
    inside = Session(images=3, seconds=1, start=101.0)
    later = Session(images=3, seconds=5, start=1000.0)
    of_an_older_version = Session(images=3, seconds=7)
    assert wall_seconds([later, inside, of_an_older_version, *beside]) == 26


def test_sessions_are_found_among_lines_of_images_and_torn_ones_are_not(tmp_path: Path) -> None:
    session = Session(images=3, seconds=1.5, start=20.0)
    file = tmp_path / "lines"
    file.write_text('{"index": 1}\n' + session.to_line() + session.to_line()[:-9])
    assert read_sessions(file) == [session]


def test_sessions_with_impossible_numbers_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    for name, number in (("seconds", 1e308), ("seconds", -1), ("start", -1), ("start", 1e308), ("images", 1e9)):
        session = {"images": 3, "seconds": 1.5, "start": 20.0} | {name: number}
        file.write_text(json.dumps({"session": session}) + "\n")
        assert read_sessions(file) == []
