"""What the README tells people to type is understood."""

import re
import shlex
from pathlib import Path

import pytest

from segkit.cli.main import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    segkit ")
]
INLINE = [text for text in re.findall(r"`(segkit \w+ [^`]+)`", README) if not text.endswith(" -m")]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", [*COMMANDS, *INLINE])
def test_commands_parse(command):
    build_parser().parse_args(shlex.split(command)[1:])


@pytest.mark.parametrize("script", re.findall(r"scripts/\w+", README))
def test_scripts_exist(script):
    assert (ROOT / script).is_file()
