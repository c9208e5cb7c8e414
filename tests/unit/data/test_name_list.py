from hypothesis import given
from hypothesis import strategies as st

from medcli.data.name_list import NameList


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), max_size=20))
def test_names_come_back_in_order(names: list[str]) -> None:
    kept = NameList(names)
    assert list(kept) == names
    assert len(kept) == len(names)
    assert [kept[index] for index in range(len(names))] == names


def test_lists_that_join_to_the_same_bytes_have_other_digests() -> None:
    assert NameList(["ab", "c"]).digest_parts() != NameList(["a", "bc"]).digest_parts()
