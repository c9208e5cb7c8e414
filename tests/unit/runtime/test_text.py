import pytest

from medcli.runtime.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name é.png", "plain name é.png"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_moves_the_cursor_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()
