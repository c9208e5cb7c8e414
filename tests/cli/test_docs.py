"""The documents say what the program does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cli_page import EXIT_CODE_MEANINGS, reference
from families_page import page
from medcli.cli.app import COMMANDS, load_command
from medcli.errors import ExitCode
from tests.conftest import RunCli

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

each_command = pytest.mark.parametrize("name", COMMANDS)


def test_the_reference_of_the_commands_is_fresh() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python docs/scripts/cli_page.py"


def test_the_reference_names_every_flag_of_all_commands() -> None:
    lines = re.findall(r"^- (`-.*?`):", reference().partition("`medcli --version`")[0], flags=re.MULTILINE)
    flags = ["--config", "--json", "-q`, `--quiet", "-v`, `--verbose", "--debug", "-h`, `--help", "--help-all"]
    assert [line.partition("` `FILE")[0].strip("`") for line in lines] == flags


def test_the_reference_knows_every_exit_code() -> None:
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)


def test_the_set_up_commands_of_the_readme_are_the_two_promised() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "    pip install -e . && medcli demo\n" in readme
    assert "    pip install -e '.[dev]' && pytest\n" in readme
    found = re.findall(r"^ +pip install (.*)", readme, flags=re.MULTILINE)
    assert len(found) == 3
    assert found[0].endswith("https://download.pytorch.org/whl/cpu"), "before torch comes with CUDA"


@each_command
def test_every_command_has_a_summary_and_two_or_three_examples(name: str) -> None:
    assert COMMANDS[name].endswith(".")
    assert 2 <= len(load_command(name).examples) <= 3
    # A line that the help wraps at 80 columns can't be pasted.
    assert max(map(len, load_command(name).examples)) <= 80 - len("   ") - 1


@each_command
def test_the_examples_of_a_command_are_its_own_and_use_flags_it_has(name: str, run_cli: RunCli) -> None:
    for example in load_command(name).examples:
        assert example.split()[:2] == ["medcli", name]
        assert_line_fits_the_program(example, run_cli)


@each_command
def test_every_option_stands_in_a_named_panel(name: str, run_cli: RunCli) -> None:
    assert "─ Options ─" not in run_cli(name, "--help-all").out


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_index_leads_to_every_document() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    others = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert others <= set(re.findall(r"\]\(([^)]+)\)", index))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_medcli_lines_of_the_documents_fit_the_program(document: Path, run_cli: RunCli) -> None:
    for line in re.findall(r"^ {4}(medcli [a-z].*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert_line_fits_the_program(line, run_cli)


def assert_line_fits_the_program(line: str, run_cli: RunCli) -> None:
    """Fail if a line names a command that does not exist or flags that its command does not have."""
    _, name, *words = shlex.split(line, comments=True)
    help_text = run_cli(name, "--help-all")
    assert help_text.code == 0, f"{line}: there is no such command"
    for flag in (word for word in words if re.match(r"--?[a-z]", word)):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", help_text.out), f"{line}: {flag} is not in the help"


@pytest.mark.slow
def test_the_tables_of_the_families_are_what_the_commands_say() -> None:
    # Runs every command on a tiny network of every family, so it takes some seconds: the table can't lie.
    written = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert written == page(written), "run: python docs/scripts/families_page.py"
