"README.md from nbs/index.ipynb: the same words on the project's front page and on the site's start page."

import argparse
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS_LINK = re.compile(r"^\[[^\]]*\]\(\.\./docs/results\.md\)$", re.M)
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def settings() -> dict[str, str]:
    "The project's settings.ini."
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(ini["DEFAULT"])


REPO = settings()["git_url"]


def with_results(source: str) -> str:
    "Put docs/results.md, where measured figures are kept, in the place of the link to it."
    if not RESULTS_LINK.search(source):
        return source
    figures = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").strip()
    return RESULTS_LINK.sub(lambda _: figures, source)


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
    import nbformat
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not re.search(r"^#\|\s*hide", cell.source, re.M)]
    source, _ = MarkdownExporter().from_notebook_node(notebook)
    source = with_results(source)

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
