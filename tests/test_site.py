"The site and the report as a reader meets them: in a browser, without a network."

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from conftest import ROOT

PLOT = (
    "[...document.querySelectorAll('.bd-article img')]"
    ".filter(i => i.naturalWidth > 100 && i.getBoundingClientRect().width > 100).length"
)
FOREIGN = (
    "performance.getEntriesByType('resource').map(e => e.name)"
    ".filter(n => !n.startsWith(location.origin) && !n.startsWith('data:'))"
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    "A file server that does not talk."

    def log_message(self, *_: object) -> None:
        "Say nothing."


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    "The built site behind an address of this machine."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    "One browser for all tests here."
    with Browser() as page:
        yield page


def pages(site: Path) -> list[Path]:
    "Every page of the site."
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]


def article(path: Path) -> str:
    "The text of a page's article: markup out, and code blocks with it."
    html = path.read_text(encoding="utf-8")
    inner = re.search(r"<article.*?</article>", html, re.S)
    html = re.sub(r"<pre.*?</pre>", "", inner.group(0) if inner else "", flags=re.S)
    return re.sub(r"<[^>]+>", "", html)


def test_site_has_a_page_for_every_notebook(site: Path) -> None:
    for path in (ROOT / "nbs").rglob("*.ipynb"):
        if not any(part.startswith((".", "_")) for part in path.parts):
            assert (site / path.relative_to(ROOT / "nbs").with_suffix(".html")).exists(), f"no page for {path.name}"
    for name in ("start.html", "your-data.html", "search.html", "genindex.html"):
        assert (site / name).exists()


def test_no_directive_is_left_over(site: Path) -> None:
    for path in pages(site):
        words = article(path)
        for leftover in (":::", "{.callout", "show_doc(", "{dropdown}", "{py:", "WARNING: THIS FILE"):
            assert words.find(leftover) < 0, f"{path.name} shows {leftover!r}"
        for block in re.findall(r"<pre.*?</pre>", path.read_text(encoding="utf-8"), re.S):
            left = re.search(r"^\s*#\|.*", re.sub(r"<[^>]+>", "", block), re.M)
            assert not left, f"{path.name} shows a directive: {left.group(0)}"


def test_every_link_leads_somewhere(site: Path) -> None:
    dead = []
    for path in pages(site):
        for target, anchor in re.findall(
            r'<a [^>]*href="(?!https?:|mailto:)([^"#]*)(?:#([^"]*))?"', path.read_text(encoding="utf-8")
        ):
            aim = (path.parent / target).resolve() if target else path
            if not aim.exists():
                dead.append(f"{path.name} → {target}")
            elif anchor and aim.suffix == ".html" and f'id="{anchor}"' not in aim.read_text(encoding="utf-8"):
                dead.append(f"{path.name} → {target}#{anchor}")
    assert not dead, dead[:10]


@pytest.mark.browser
def test_start_page(address: str, browser: Browser) -> None:
    browser.open(f"{address}/index.html")
    assert browser.ask("document.querySelector('h1').innerText").startswith("disti")
    captions = browser.ask("[...document.querySelectorAll('.bd-sidebar-primary p.caption')].map(p => p.innerText)")
    assert captions == ["Start", "How to", "Systems", "Stages", "Library"]
    assert browser.ask(FOREIGN) == [], "the site must work without a network"


@pytest.mark.browser
def test_search_finds_a_function(address: str, browser: Browser) -> None:
    browser.open(f"{address}/search.html?q=load_collection")
    first = browser.until("(document.querySelector('#search-results li a') || {}).href")
    browser.open(first)
    assert browser.ask("location.pathname + location.hash") == "/01_data.html#disti.data.load_collection"
    top = browser.ask("document.getElementById('disti.data.load_collection').getBoundingClientRect().top")
    assert -50 <= top <= 900, f"the definition stands in view, at {top}"
    assert "folder" in browser.ask("document.getElementById('disti.data.load_collection').innerText")


@pytest.mark.browser
def test_search_finds_words_of_a_page(address: str, browser: Browser) -> None:
    browser.open(f"{address}/search.html?q=hard+negatives")
    browser.until("document.querySelectorAll('#search-results li a').length > 0")
    found = browser.ask("[...document.querySelectorAll('#search-results li a')].map(a => a.pathname)")
    assert "/11_mine.html" in found, found


@pytest.mark.browser
def test_a_plot_is_seen(site: Path, address: str, browser: Browser) -> None:
    with_plots = [
        path.relative_to(site).as_posix() for path in pages(site) if "_images/" in path.read_text(encoding="utf-8")
    ]
    assert with_plots, "no notebook shows a plot"
    for name in with_plots:
        browser.open(f"{address}/{name}")
        assert browser.ask(PLOT) > 0, f"{name} shows no plot"


@pytest.mark.browser
def test_a_cross_link_leads_to_its_page(address: str, browser: Browser) -> None:
    browser.open(f"{address}/11_mine.html")
    link = "document.querySelector('.bd-article p a[href^=\"1\"]')"
    page = browser.ask(f"{link}.getAttribute('href')").partition("#")[0]
    browser.ask(f"{link}.click()")
    browser.until(f"location.pathname == '/{page}' && document.readyState == 'complete'")
    assert browser.ask("document.querySelector('h1').innerText") and page != "11_mine.html"


@pytest.mark.browser
def test_formulas_are_drawn(site: Path, address: str, browser: Browser) -> None:
    name = next(path.name for path in pages(site) if "<math" in path.read_text(encoding="utf-8"))
    browser.open(f"{address}/{name}")
    assert (
        browser.ask("Math.min(...[...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().width))") > 0
    )


@pytest.mark.browser
def test_report(smoke: Path, browser: Browser) -> None:
    path = smoke / "results" / "report.html"
    assert not re.search(r'(?:src|href)="(?!data:|#|https?://)[^"]', path.read_text(encoding="utf-8")), (
        "the report is one file"
    )
    browser.open(path.as_uri())
    table = browser.ask("[...document.querySelectorAll('table')].map(t => t.innerText).join('\\n')")
    for model in ("bm25", "untrained", "teacher", "distilled", "lora", "full", "small-labels", "small"):
        assert re.search(rf"\b{model}\b", table, re.I), f"the report's tables lack {model}"
    assert browser.ask("performance.getEntriesByType('resource').filter(e => e.name.startsWith('http')).length") == 0
    drawn = browser.ask(
        "[...document.querySelectorAll('img, svg')].filter(i => i.getBoundingClientRect().width > 100"
        " && (i.tagName != 'IMG' || i.naturalWidth > 100)).length"
    )
    assert drawn > 0, "the report shows no plot"
