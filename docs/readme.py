"README.md from nbs/index.ipynb: the same words on the project's front page and on the site's start page."

import argparse
import json
import re
import sys
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
WINGS = {  # the first digits of a library notebook's number: what that wing is about
    "00": "rows in files, and what went wrong, each told once",
    "01": "a collection: corpus, queries, judgements",
    "02": "how good is a ranking, how close the student to its teacher",
    "03": "is a difference real?",
    "04": "from a query to ranked passages; when two texts are the same",
    "05": "a model is one record; loaded, encoded with, saved; heads, adapters, fast layers; an index of passages",
    "06": "any scorer of (query, passage) pairs, and the store of its scores; the search service around it",
    "07": "what a student learns from: losses and objectives, and whether scores can be trusted",
    "08": "one training loop that loses no work",
    "09": "running it: stages, recipes, checks, the live screen, the report",
}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def settings() -> dict[str, str]:
    "The project's settings.ini."
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(ini["DEFAULT"])


REPO = settings()["git_url"]


def figures() -> str:
    "docs/results.md, where measured figures are kept."
    return (ROOT / "docs" / "results.md").read_text(encoding="utf-8").strip()


def titles() -> dict[str, tuple[str, str]]:
    "Title and subtitle of every numbered notebook, from its first cell."
    found = {}
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, subtitle = (re.search(rf"^{mark} (.+)$", first, re.M) for mark in "#>")
        found[path.stem] = (title[1] if title else path.stem, subtitle[1] if subtitle else "")
    return found


def stages() -> str:
    "The stages, one phrase each: their own titles."
    rows = [
        f"| [{stem}]({stem}.ipynb) | **{title}.** {words} |"
        for stem, (title, words) in titles().items()
        if stem >= "10"
    ]
    return "\n".join(["| stage | what it does |", "|---|---|", *rows])


def wings() -> str:
    "The wings of the library, one phrase each, with their notebooks."
    rooms: dict[str, list[str]] = {}
    for stem in (stem for stem in titles() if stem < "10"):
        number, _, name = stem.partition("_")
        rooms.setdefault(number[:2], []).append(f"[{number} {name}]({stem}.ipynb)")
    rows = [f"| {WINGS[digits]} | {' · '.join(links)} |" for digits, links in rooms.items()]
    return "\n".join(["| the library | its notebooks |", "|---|---|", *rows])


PLACES: dict[str, Callable[[], str]] = {"../docs/results.md": figures, "#stages": stages, "#library": wings}
PLACE = re.compile(
    rf"^\[[^\]]*\]\(({'|'.join(map(re.escape, PLACES))})\)$", re.M
)  # a line that is a link to one of them


def with_figures(source: str) -> str:
    "In the place of a line that is a link to one of `PLACES`: what it leads to."
    return PLACE.sub(lambda match: PLACES[match[1]](), source)


def outside_links(source: str, folder: Path) -> str:
    "On the site, a link to a file that is no page leads to the repository; links between pages stay."

    def target(match: re.Match) -> str:
        words, path, anchor = match.group(1), match.group(2), match.group(3) or ""
        where = (folder / path).resolve()
        if (
            path.endswith(".ipynb")
            or where.parent == ROOT / "docs"
            and path.endswith(".md")
            or ROOT not in where.parents
        ):
            return f"[{words}]({Path(path).name if where.parent == ROOT / 'docs' else path}{anchor})"
        kind = "tree" if where.is_dir() else "blob"
        return f"[{words}]({REPO}/{kind}/main/{where.relative_to(ROOT).as_posix()}{anchor})"

    return LINK.sub(target, source)


def readme() -> str:
    "The start notebook as markdown, its links relative to the repository's root."
    cells = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    source = with_figures("\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"))

    def rooted(match: re.Match) -> str:
        path = (ROOT / "nbs" / match.group(2)).resolve()
        return f"[{match.group(1)}]({path.relative_to(ROOT).as_posix()}{match.group(3) or ''})"

    source = LINK.sub(rooted, source)
    return (
        "<!-- Made from nbs/index.ipynb by docs/readme.py: edit there. -->\n\n"
        + re.sub(r"\n{3,}", "\n\n", source).strip()
        + "\n"
    )


def main() -> int:
    "Write README.md, or with --check only say whether it is up to date."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when README.md is not up to date")
    made, path = readme(), ROOT / "README.md"
    if parser.parse_args().check:
        same = path.exists() and path.read_text(encoding="utf-8") == made
        print("README.md is up to date" if same else "README.md differs from nbs/index.ipynb; run: make export")
        return int(not same)
    path.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
