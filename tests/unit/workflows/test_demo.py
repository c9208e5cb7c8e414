from medcli.workflows.demo import _Titled


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        self.said.append(f"{done}/{total} {unit}")

    def note(self, text: str) -> None:
        self.said.append(text)


def test_a_title_comes_once_and_only_with_something_to_say() -> None:
    told = Told()
    titled = _Titled(told, "dense")
    assert told.said == []
    titled.progress(1, 2, "images")
    titled.note("slow")
    assert told.said == ["dense", "1/2 images", "slow"]
    other = Told()
    _Titled(other, "dense").note("slow")
    assert other.said == ["dense", "slow"]
