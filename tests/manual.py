"""What docs/manual.md says, for the tests that hold the code to it."""

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parent.parent / "docs/manual.md").read_text()


def section(title: str) -> str:
    """From the heading to the next of its level or above."""
    found = re.search(rf"^(#+) ([^\n]*\b)?{title}\b.*?(?=^#{{1,4}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"the manual has no section {title}"
    return found[0]


def exit_codes() -> tuple[dict[str, set[int]], set[int]]:
    """Of each verb the codes of its own, and those that any of them may end with."""
    text = section("The verbs")
    own = {
        name: set(map(int, re.findall(r"\b\d+\b", codes)))
        for names, codes in re.findall(r"^\| \[([a-z, ]+)\]\(#.*\|([^|]*)\|$", text, re.MULTILINE)
        for name in names.split(", ")
    }
    return own, set(map(int, re.findall(r"\b\d+\b", text.rpartition("|\n")[2])))
