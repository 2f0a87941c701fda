"What attacks are counted by: tries, and what was lost, done twice or wrong; a table at the end."

import json
import os
from pathlib import Path

import pytest

FULL = os.environ.get("DISTI_ATTACKS") == "full"  # the numbers of docs/promises.md; else a few of each, in seconds
ROWS: list[dict] = []
HEAD = ("attack", "tries", "lost", "duplicated", "wrong")


class Tally:
    "Counts one attack, and fails when something was lost, wrong, or done more often than allowed."

    def __call__(
        self, attack: str, *, tries: int, lost: int = 0, duplicated: int = 0, wrong: int = 0, allowed: int = 0, **more
    ) -> None:
        ROWS.append(dict(zip(HEAD, (attack, tries, lost, duplicated, wrong), strict=True)) | more)
        assert tries > 0, f"{attack}: nothing was tried"
        assert not lost and not wrong and duplicated <= allowed, ROWS[-1]


@pytest.fixture(scope="session")
def tally() -> Tally:
    "The one count of a session."
    return Tally()


def table() -> list[str]:
    "All attacks of this session, as lines."
    width = max((len(row["attack"]) for row in ROWS), default=6)
    lines = [f"{'attack':{width}}  " + "  ".join(f"{name:>10}" for name in HEAD[1:])]
    for row in ROWS:
        more = ", ".join(f"{key} {value}" for key, value in row.items() if key not in HEAD)
        lines.append(
            f"{row['attack']:{width}}  " + "  ".join(f"{row[name]:>10}" for name in HEAD[1:]) + "  " * bool(more) + more
        )
    return lines


def pytest_sessionfinish(session: pytest.Session) -> None:
    "Where several processes test, each hands its rows to the one that prints."
    if (handed := getattr(session.config, "workeroutput", None)) is not None:
        handed["attacks"] = ROWS


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node) -> None:
    "Take the rows of a process that has ended."
    ROWS.extend(getattr(node, "workeroutput", {}).get("attacks", []))


def pytest_terminal_summary(terminalreporter) -> None:
    "Print the table; DISTI_ATTACKS_TO=FILE keeps it as JSON too."
    if not ROWS:
        return
    terminalreporter.section("attacks" if FULL else "attacks, a few of each (DISTI_ATTACKS=full runs them all)")
    for line in table():
        terminalreporter.write_line(line)
    if to := os.environ.get("DISTI_ATTACKS_TO"):
        Path(to).write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
