import pytest

from medcli.data.parallel_read import read_all
from medcli.errors import DataError


def test_items_are_read_in_order() -> None:
    assert read_all(lambda item: item * 2, range(40)) == [item * 2 for item in range(40)]
    assert read_all(str, []) == []


def test_failures_are_counted_and_the_first_in_order_is_named() -> None:
    def read(item: int) -> int:
        if item in bad:
            raise DataError(f"file {item} is empty", hint="copy it again")
        return item

    bad = {3}
    with pytest.raises(DataError, match=r"^file 3 is empty$"):
        read_all(read, range(10))
    bad = {8, 5, 6}
    with pytest.raises(DataError, match="3 files can't be used, the first: file 5 is empty") as caught:
        read_all(read, range(10))
    assert caught.value.hint == "copy it again"


def test_an_unexpected_error_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        read_all(lambda item: 1 // item, [1, 0])
