"""Build the site: nbdev processes the notebooks (hidden cells out, names linked), this script turns its Quarto dialect
into MyST and exported cells into documented definitions, and Sphinx makes pages of them. Any warning is an error."""

import argparse
import ast
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from readme import ROOT, outside_links, settings, with_results

HERE = Path(__file__).parent
NBS, SRC = ROOT / "nbs", HERE / "_src"
SITE = settings()["doc_host"] + settings()["doc_baseurl"] + "/"
Cell = dict
MODULE = re.compile(r"^#\|\s*default_exp\s+(\S+)", re.M)
DIRECTIVE = re.compile(r"^[ \t]*#\|[ \t]*([\w-]+)[ \t]*(:?)[ \t]*(.*)\n?", re.M)
EXPORTED = re.compile(r"^[ \t]*#\|[ \t]*export[si]?[ \t]*$", re.M)
NESTED = re.compile(rf"\[([^\[\]]*)\[([^\[\]]+)\]\({re.escape(SITE)}[^)\s]*\)([^\[\]]*)\]\(")  # a name within a link
GROUPS = {"Library": range(0, 10), "Stages": range(10, 30)}  # by the number a notebook's name starts with


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


def callout(match: re.Match) -> str:
    "Quarto's callout as MyST's admonition."
    return fenced(f"{{{match.group(1)}}}", match.group(2).strip(), ":")


def prose(source: str, names: dict[str, str]) -> str:
    "Quarto's markdown as MyST's; links to nbdev's site become links between pages."
    source = re.sub(r"^:::+ \{\.callout-(\w+)[^}]*\}\n(.*?)^:::+[ \t]*$", callout, source, flags=re.M | re.S)
    source = re.sub(r"\$\$\s*\{#([\w-]+)\}", r"$$ (\1)", source)
    source = re.sub(r"(?<![\w`])@(eq-[\w-]+)", r"{eq}`\1`", source)

    def local(match: re.Match) -> str:
        words, page, name = match.groups()
        if page not in names:
            return f"[{words}]({SITE}{page}.html)"
        return f"{{py:obj}}`{words.strip('`')} <disti.{page}.{name}>`" if name else f"[{words}]({names[page]}.ipynb)"

    source = NESTED.sub(r"[\1\2\3](", source)
    source = re.sub(rf"\[([^\[\]]+)\]\({re.escape(SITE)}([\w.]+)\.html(?:#([\w.]+))?\)", local, source)
    return outside_links(source, NBS)


def convert(name: str, processed: dict, names: dict[str, str]) -> dict:
    "A processed notebook as a page: the order of the source, the cells that nbdev left, definitions described."
    notebook = json.loads((NBS / f"{name}.ipynb").read_text(encoding="utf-8"))
    left = {cell["id"]: cell for cell in processed["cells"] if "id" in cell}
    whole = "\n".join(text(cell) for cell in notebook["cells"])
    module = MODULE.search(whole)
    exported = [text(cell) for cell in notebook["cells"] if EXPORTED.search(text(cell))]
    known = homes(exported, module.group(1)) if module else {}
    cells: list[Cell] = []
    for number, cell in enumerate(notebook["cells"]):
        source = text(cell)
        options = {found[0]: found[2] for found in DIRECTIVE.findall(source)} if cell["cell_type"] == "code" else {}
        if number == 0:
            cells.append(markdown(prose(source, names)))
            if module:
                cells.append(markdown(f":::{{py:module}} disti.{module.group(1)}\n:::"))
        elif cell["cell_type"] == "code" and EXPORTED.search(source) and "hide" not in options:
            cells += described(source, known)
        elif cell["id"] in left and (kept := left[cell["id"]]) and text(kept).strip():
            if cell["cell_type"] == "markdown":
                cells.append(markdown(prose(with_results(text(kept)), names)))
            elif cell["cell_type"] == "code":
                tags = kept["metadata"].setdefault("tags", [])
                tags += ["remove-input"] * (options.get("echo") == "false")
                cells.append(kept | {"source": DIRECTIVE.sub("", text(kept)).strip("\n")})
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
    stems = sorted(path.stem for path in NBS.glob("*.ipynb") if path.stem != "index")
    groups = {"Start": ["What disti is <self>", "start"]}
    for caption, numbers in GROUPS.items():
        groups[caption] = [stem for stem in stems if re.match(r"\d\d", stem) and int(stem[:2]) in numbers]
    groups["How to"] = ["your-data", "teachers", "training", "measured"] + [
        f"tutorials/{path.stem}" for path in sorted((NBS / "tutorials").glob("*.ipynb"))
    ]
    return groups


def write_pages(processed: Path) -> None:
    "Fill docs/_src anew."
    shutil.rmtree(SRC, ignore_errors=True)
    SRC.mkdir()
    groups, sources = page_groups(), {path.relative_to(NBS).with_suffix("").as_posix(): path for path in notebooks()}
    names = {}
    for stem, path in sources.items():
        if found := MODULE.search("\n".join(map(text, json.loads(path.read_text(encoding="utf-8"))["cells"]))):
            names[found.group(1)] = stem
    for stem in sources:
        page = convert(stem, json.loads((processed / f"{stem}.ipynb").read_text(encoding="utf-8")), names)
        if stem == "index":
            page["cells"].append(markdown(contents(groups)))
        (SRC / f"{stem}.ipynb").parent.mkdir(parents=True, exist_ok=True)
        (SRC / f"{stem}.ipynb").write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")
    for path in HERE.glob("*.md"):
        if path.name != "results.md":
            source = path.read_text(encoding="utf-8").replace("](../nbs/", "](")
            (SRC / path.name).write_text(outside_links(source, HERE), encoding="utf-8")


def notebooks() -> list[Path]:
    "The notebooks that become pages."
    return sorted(path for path in NBS.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in path.parts))


def main() -> int:
    "Process, convert, build; the exit code is Sphinx's."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "_build" / "html")
    out = parser.parse_args().out.resolve()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    print("docs: processing the notebooks", flush=True)
    from nbdev.serve import proc_nbs

    write_pages(Path(proc_nbs(n_workers=2)))
    print("docs: building the site", flush=True)
    from sphinx.cmd.build import main as sphinx

    failed = sphinx(
        [
            "-b",
            "html",
            "-W",
            "--keep-going",
            "-q",
            "-E",
            "-c",
            str(HERE),
            "-d",
            str(HERE / "_build" / "doctrees"),
            str(SRC),
            str(out),
        ]
    )
    print(
        "docs: failed, see the warnings above" if failed else f"docs: {out}/index.html",
        file=sys.stderr if failed else sys.stdout,
    )
    return failed


if __name__ == "__main__":  # proc_nbs starts processes that import this file
    sys.exit(main())
