"""Build the site: notebooks become MyST pages (hidden cells out, exported cells as documented definitions, names in
backticks linked to them), and Sphinx makes a site of them. Any warning is an error."""

import argparse
import ast
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from readme import ROOT, outside_links, with_figures

HERE = Path(__file__).parent
NBS, SRC = ROOT / "nbs", HERE / "_src"
Cell = dict
MODULE = re.compile(r"^#\|\s*default_exp\s+(\S+)", re.M)
DIRECTIVE = re.compile(r"^[ \t]*#\|[ \t]*([\w-]+)[ \t]*(:?)[ \t]*(.*)\n?", re.M)
EXPORTED = re.compile(r"^[ \t]*#\|[ \t]*export[ \t]*$", re.M)
HEADING = re.compile(r"(\]\((?:[\w./-]+\.ipynb)?#)([\w-]+)\)")  # Jupyter keeps a heading's capitals, MyST does not
SPOKEN = re.compile(
    r"(```.*?```|\[[^\]]*\]\([^)]*\)|\$\$.*?\$\$)|`(?:disti\.)?(?:(\w+)\.)?(\w+)(?:\(\))?`", re.S
)  # a name in backticks
SYSTEMS = ("bge-m3", "projection", "hybrid-selective", "search-service", "cross-encoder-lora")  # pages of their own
GROUPS = {"Stages": range(10, 30), "Library": range(0, 10)}  # by the number a notebook's name starts with


def text(cell: Cell) -> str:
    "A cell's source as one string."
    return "".join(cell.get("source", ""))


def markdown(source: str) -> Cell:
    "A markdown cell; a page numbers its cells at the end."
    return {"cell_type": "markdown", "id": "new", "metadata": {}, "source": source}


def fenced(kind: str, body: str, mark: str = "`") -> str:
    "A fence that is longer than every fence within it."
    longest = max((len(found) for found in re.findall(rf"^\s*({re.escape(mark)}{{3,}})", body, re.M)), default=2)
    fence = mark * (longest + 1)
    return f"{fence}{kind}\n{body.rstrip()}\n{fence}"


# Definitions ---------------------------------------------------------------------------------------------------------


def comment_after(lines: list[str], line: int, column: int) -> str:
    "The comment that follows a parameter on its line, when nothing but a comma or a bracket stands between."
    rest = lines[line - 1].encode()[column:].decode()
    found = re.match(r"[^#\"']*?[,):]*\s*#\s*(.*)$", rest)
    return found.group(1).strip() if found and not re.match(r"\s*,\s*\w", rest) else ""


def parameters(node: ast.AST, lines: list[str]) -> Iterator[tuple[str, str]]:
    "Name and comment of every parameter (of a dataclass: of every field) that has a comment beside it."
    if isinstance(node, ast.ClassDef):
        own = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        if own:
            yield from parameters(own, lines)
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and (
                words := comment_after(lines, item.end_lineno, item.end_col_offset)
            ):
                yield ast.unparse(item.target), words
        return
    args = node.args
    for arg in [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]:
        if arg and arg.arg not in ("self", "cls"):
            default = default_of(args, arg)
            end = default if default is not None else arg
            if words := comment_after(lines, end.end_lineno, end.end_col_offset):
                yield arg.arg, words


def default_of(args: ast.arguments, arg: ast.arg) -> ast.expr | None:
    "The default of one parameter."
    plain = [*args.posonlyargs, *args.args]
    if arg in plain:
        at = plain.index(arg) - len(plain) + len(args.defaults)
        return args.defaults[at] if at >= 0 else None
    return args.kw_defaults[args.kwonlyargs.index(arg)] if arg in args.kwonlyargs else None


class Qualified(ast.NodeTransformer):
    "Names of disti in annotations with their module, so that each leads to its own page."

    def __init__(self, homes: dict[str, str]) -> None:
        self.homes = homes

    def visit_Name(self, node: ast.Name) -> ast.Name:
        home = self.homes.get(node.id)
        return ast.copy_location(ast.Name(f"disti.{home}.{node.id}"), node) if home else node


def homes(cells: list[str], own: str) -> dict[str, str]:
    "The module that each name of disti in a notebook comes from: imported, or its own."
    found = {}
    for node in (node for cell in cells for node in ast.parse(DIRECTIVE.sub("", cell)).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("disti."):
            found |= {alias.name: node.module.removeprefix("disti.") for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = own
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: own for target in targets if isinstance(target, ast.Name)}
    return found


def signature(node: ast.AST) -> str:
    "What stands after the name: parameters and what comes back."
    if isinstance(node, ast.ClassDef):
        own = next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"), None)
        if own:
            inner = ast.unparse(own.args)
            return "(" + re.sub(r"^self(, )?", "", inner) + ")"
        if any("dataclass" in ast.unparse(deco) for deco in node.decorator_list) or any(
            ast.unparse(base) == "NamedTuple" for base in node.bases
        ):
            fields = [ast.unparse(item) for item in node.body if isinstance(item, ast.AnnAssign)]
            return "(" + ", ".join(field for field in fields if "ClassVar" not in field) + ")"
        return ""
    return f"({ast.unparse(node.args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def definition(node: ast.AST, source: str, lines: list[str]) -> str:
    "One exported function or class as a Sphinx description: signature, docstring, parameters, source on demand."
    kind = "class" if isinstance(node, ast.ClassDef) else "function"
    body = [ast.get_docstring(node) or "", ""]
    body += [f":param {name}: {words}" for name, words in parameters(node, lines)]
    if isinstance(node, ast.FunctionDef) and node.returns:
        if words := comment_after(lines, node.returns.end_lineno, node.returns.end_col_offset):
            body.append(f":returns: {words}")
    body += ["", fenced("{dropdown} Source", fenced("python", source), ":")]
    return fenced(f"{{py:{kind}}} {node.name}{signature(node)}", "\n".join(body).strip(), ":")


def described(source: str, known: dict[str, str]) -> list[Cell]:
    "The cells that stand for one exported cell: its definitions described, its constants shown, its imports dropped."
    source = DIRECTIVE.sub("", source)
    lines, cells, last = source.splitlines(), [], 0
    for node in ast.parse(source).body:
        first = min([node.lineno, *(deco.lineno for deco in getattr(node, "decorator_list", []))])
        while first - 1 > last and lines[first - 2].startswith("#"):
            first -= 1  # the comment above belongs to it
        piece = "\n".join(lines[first - 1 : node.end_lineno])
        if node.end_lineno == last:
            continue
        last = node.end_lineno
        if isinstance(node, (ast.Import, ast.ImportFrom)) or isinstance(node, ast.If) and "TYPE_CHECKING" in piece:
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            cells.append(markdown(definition(Qualified(known).visit(node), piece, lines)))
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        code = fenced("python", piece)
        name = target.id if isinstance(target, ast.Name) else ""
        cells.append(markdown((f":::{{py:data}} {name}\n:no-typesetting:\n:::\n\n" if name else "") + code))
    return cells


# Cells ---------------------------------------------------------------------------------------------------------------


def linked(source: str, known: dict[str, str], names: dict[str, set[str]]) -> str:
    "Names of disti in backticks lead to their definition: own and imported ones, others where there is only one."

    def target(match: re.Match) -> str:
        passed, module, name = match.groups()
        homes = names.get(name or "", set())
        home = module if module else known.get(name or "") or (next(iter(homes)) if len(homes) == 1 else "")
        return match[0] if passed or home not in homes else f"{{py:obj}}{match[0][:-1]} <disti.{home}.{name}>`"

    return SPOKEN.sub(target, source)


def own_homes(notebook: dict) -> tuple[str, dict[str, str]]:
    "A notebook's module, and where each name of disti that its exported cells define or import lives."
    sources = [text(cell) for cell in notebook["cells"]]
    module = MODULE.search("\n".join(sources))
    exported = [source for source in sources if EXPORTED.search(source)]
    return (module.group(1), homes(exported, module.group(1))) if module else ("", {})


def convert(notebook: dict, names: dict[str, set[str]]) -> dict:
    "A notebook as a page: hidden cells out, definitions described, names linked."
    module, known = own_homes(notebook)
    cells: list[Cell] = []
    for number, cell in enumerate(notebook["cells"]):
        source = text(cell)
        code = cell["cell_type"] == "code"
        options = {found[0] for found in DIRECTIVE.findall(source)} if code else set()
        if not source.strip() or options & {"hide", "default_exp"}:
            continue
        if not code:
            source = linked(with_figures(source), known, names)
            source = HEADING.sub(lambda match: f"{match[1]}{match[2].lower()})", source)
            cells.append(markdown(outside_links(source, NBS)))
        elif "export" in options:
            cells += described(source, known)
        else:
            cells.append(cell | {"source": DIRECTIVE.sub("", source).strip("\n")})
        if number == 0 and module:
            cells.append(markdown(f":::{{py:module}} disti.{module}\n:::"))
    cells = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(cells)]
    return notebook | {"cells": cells, "metadata": notebook["metadata"] | {"language_info": {"name": "python"}}}


# Pages ---------------------------------------------------------------------------------------------------------------


def contents(pages: dict[str, list[str]]) -> str:
    "The hidden table of contents that makes the sidebar."
    return "\n\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```"
        for caption, names in pages.items()
        if names
    )


def page_groups() -> dict[str, list[str]]:
    "Every page under its caption."
    stems = [path.stem for path in notebooks() if path.stem != "index"]
    groups = {
        "Start": ["What disti is <self>", "start"],
        "How to": [
            "your-data",
            "download",
            "leaks",
            "synthesis",
            "formats",
            "mining",
            "teachers",
            "training",
            "when",
            "proof",
            "promises",
            "serving",
            "batch",
            "measured",
            "limits",
        ],
        "Systems": ["systems", *(f"system-{name}" for name in SYSTEMS)],
    }
    for caption, numbers in GROUPS.items():
        groups[caption] = [stem for stem in stems if int(stem[:2]) in numbers]
    return groups


def notebooks() -> list[Path]:
    "The notebooks that become pages."
    return sorted(path for path in NBS.glob("*.ipynb") if not path.name.startswith((".", "_")))


def write_pages() -> None:
    "Fill docs/_src anew."
    shutil.rmtree(SRC, ignore_errors=True)
    SRC.mkdir()
    sources = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in notebooks()}
    names: dict[str, set[str]] = {}
    for module, known in map(own_homes, sources.values()):
        for name in (name for name, home in known.items() if module and home == module):
            names.setdefault(name, set()).add(module)
    for stem, notebook in sources.items():
        page = convert(notebook, names)
        if stem == "index":
            page["cells"].append(markdown(contents(page_groups())))
        (SRC / f"{stem}.ipynb").write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
    for path in HERE.glob("*.md"):
        if path.name != "results.md":
            source = path.read_text(encoding="utf-8").replace("](../nbs/", "](")
            (SRC / path.name).write_text(outside_links(source, HERE), encoding="utf-8")


def main() -> int:
    "Convert, build; the exit code is Sphinx's."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "_build" / "html")
    out = parser.parse_args().out.resolve()
    print("docs: building the site", flush=True)
    write_pages()
    from sphinx.cmd.build import main as sphinx

    words = ["-b", "html", "-W", "--keep-going", "-q", "-E", "-c", HERE, "-d", HERE / "_build" / "doctrees", SRC, out]
    failed = sphinx([str(word) for word in words])
    print(
        "docs: failed, see the warnings above" if failed else f"docs: {out}/index.html",
        file=sys.stderr if failed else sys.stdout,
    )
    return failed


if __name__ == "__main__":
    sys.exit(main())
