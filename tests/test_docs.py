"""README.md and docs/: their commands run, their output is what the program prints, and the site builds."""

import html
import re
import shutil
import subprocess

import build_site
import pages
import pictures
import pytest
import reference
import typer
from conftest import ROOT

from charrnn.cli import app

NAMES = [str(page.relative_to(ROOT)) for page in pages.PAGES]
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
LINKED = [*pages.PAGES, *ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), ROOT / "corpora/README.md"]
WHOLE = ("include: results", "include: regularization", "include: sizes", "end")
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.long
@pytest.mark.parametrize("page", pages.PAGES, ids=NAMES)
def test_a_page_shows_what_its_commands_print(tmp_path, page):
    session = pages.Session(tmp_path)
    for block in pages.blocks(page):
        for command, shown in block.commands:
            printed = session.run(block.kind, block.shorter(command))
            assert block.agrees(shown, printed), f"{block.text()}\nprinted\n{printed}"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_written_anew_as_it_stands_but_for_what_is_printed(name):
    pieces = list(pages.parse(TEXTS[name]))
    assert "".join(piece.text() if isinstance(piece, pages.Block) else piece for piece in pieces) == TEXTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_generated_parts_are_those_of_todays_code(name):
    assert TEXTS[name].count("<!-- include: ") == TEXTS[name].count("<!-- end -->") == len(reference.PART.findall(TEXTS[name]))
    assert reference.fill(TEXTS[name]) == TEXTS[name], "make reference"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_page_runs_or_says_why_not(name):
    pieces = list(pages.parse(TEXTS[name]))
    rest = "".join(piece for piece in pieces if isinstance(piece, str))
    rest = re.sub(pages.GENERATED, "", rest, flags=re.M | re.S)
    doctests = re.sub(r"^```python\n>>> .*?^```$", "", rest, flags=re.M | re.S)  # of the lessons, which test_lessons runs
    assert not re.findall(r"^(?:```|\$ | +(?:\$|charrnn|make|pip|pipx|python|torchrun) ).*", doctests, re.M)
    for block in (piece for piece in pieces if isinstance(piece, pages.Block)):
        assert block.commands
        assert all(len(reason) > 10 for reason in block.values("not run"))
        assert set(block.values("same")) <= pages.SAME.keys()
        for pair in block.values("shorter"):
            assert any(pair.split(" => ")[0] in command for command, _ in block.commands), pair
    for comment in re.findall(r"<!-- (.*?) -->", TEXTS[name], re.S):
        assert re.match(r"(not run|shorter|same|show|include|place): ", comment) or comment in WHOLE, comment


def test_a_command_that_fails_or_prints_something_else_is_noticed(tmp_path):
    session = pages.Session(tmp_path)
    with pytest.raises(RuntimeError, match="exit status 3"):
        session.run("console", "exit 3")
    with pytest.raises(RuntimeError, match="exit status 1"):
        session.run("console", "false | cat")
    text = "<!-- shorter: 12 => 7 -->\n<!-- same: words -->\n```console\n$ echo 12 is\n12 is\n$ echo 12 was\n12 is\n```\n"
    (block,) = [piece for piece in pages.parse(text) if isinstance(piece, pages.Block)]
    found = [block.agrees(shown, session.run("console", block.shorter(command))) for command, shown in block.commands]
    assert found == [True, False]
    different = {
        "all": "a\nb",
        "words": "a c\n",
        "number of lines": "",
        "length": "a b c d e f",
        "last line": "a\n",
        "nothing": "",
    }
    for what, other in different.items():
        assert pages.SAME[what]("a b\n", "a b\n")
        assert not pages.SAME[what]("a b\n", other), what


def test_every_option_that_the_pages_name_is_there():
    flags = {flag for command in COMMANDS.values() for parameter in command.params for flag in parameter.opts}
    flags |= {"-h", "--help", "--version", "--install-completion"}
    flags |= {"--rdzv-id", "--rdzv-endpoint", "--local-addr", "--max-restarts", "--nproc-per-node"}  # torchrun's
    for name, text in TEXTS.items():
        for command in re.findall(r"`(charrnn [^`]*)`|^\$ (?:.*\| )?(charrnn .*)$", text, re.M):
            words = "".join(command).split()
            assert words[1] in COMMANDS or words[1] in ("COMMAND", *flags), f"{name}: {command}"
        for flag in re.findall(r"`(--?[a-z][a-z-]*)", text):
            assert flag in flags, f"{name}: {flag}"


def prose_of(page):
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\((?!https?:)([^)]*)\)", re.sub(r"`[^`\n]*`", "", prose_of(page))):
        name, _, anchor = link.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), link
        headings = re.findall(r"^#+ (.*)$", prose_of(there), re.M) if anchor else []
        assert anchor in ["", *(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)], link


def test_the_readme_is_read_in_three_minutes():
    prose = re.sub(r"<!-- .*? -->", "", "".join(piece for piece in pages.parse(TEXTS["README.md"]) if isinstance(piece, str)))
    typed = [command for block in pages.blocks(ROOT / "README.md") for command, _ in block.commands]
    assert len((prose + " ".join(typed)).split()) < 720


def test_the_readme_is_under_150_lines_and_names_every_package():
    lines = TEXTS["README.md"].splitlines()
    named = set(re.findall(r"(\w+)/  ", "\n".join(line for line in lines if line.startswith("    "))))
    assert len(lines) < 150
    assert named == {folder.parent.name for folder in (ROOT / "charrnn").glob("*/__init__.py")}


def test_the_readme_compares_with_figures_of_the_results():
    table = TEXTS["README.md"].partition("## Why this one?")[2].partition("\n\n##")[0]
    figures = set(re.findall(r"\d\.\d{3,}", table)) - {"1.4697"}  # nanoGPT's, which its README gives
    assert figures
    assert [figure for figure in figures if figure not in (ROOT / "benchmarks/RESULTS.md").read_text()] == []


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_what_todays_code_draws(name):
    shown = (pictures.FOLDER / name).read_text()
    assert pictures.PICTURES[name]() == shown, "make docs"
    assert f"(docs/pictures/{name})" in TEXTS["README.md"]
    assert not re.findall(r"@import|@font-face|href|<script|url\((?!#)", shown)  # nothing is loaded


def test_make_train_runs_what_the_tutorial_begins_with():
    made = subprocess.run(["make", "-n", "train"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    made = [line.removeprefix(".venv/bin/") for line in made.splitlines() if line.startswith(".venv/bin/charrnn")]
    shown = [command for block in pages.blocks(ROOT / "docs/tutorial.md") for command, _ in block.commands]
    shown = [command for command in shown if re.match("charrnn (train|sample)", command)][:2]
    assert made == [shown[0], f"{shown[1]} </dev/null"]


@pytest.fixture(scope="module")
def site(tmp_path_factory, book_run):
    folder = tmp_path_factory.mktemp("site") / "site"
    build_site.build(book_run / "runs/book/model.safetensors", folder)
    return folder


def test_the_site_has_a_page_to_try_a_model_on(site):
    assert '<script type="text/plain" id="write-weights">' in (site / "try.html").read_text()
    assert re.search(r'href="?(\./)?try.html"?[ >]', (site / "index.html").read_text())


def test_a_broken_link_fails_the_site(tmp_path, book_run):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write("\n[No page](nowhere.md), [no chapter](tutorial.md#nowhere).\n")
    with pytest.raises(SystemExit, match=r"(?s)page does not exist.*anchor does not exist"):
        build_site.build(book_run / "runs/book/model.safetensors", tmp_path / "site", docs=tmp_path / "docs")
    assert not (tmp_path / "site").exists()


def test_the_site_loads_nothing_from_elsewhere_and_can_be_searched(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\s\">]+)", page.read_text())
        assert loaded
        assert not [address for address in loaded if "//" in address], page
        files = [address for address in loaded if address[0] != "/" and not address.startswith("data:")]
        assert not [file for file in files if not (page.parent / file).exists()], page
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert not re.findall(r"@import|url\(\W?https?:", styles)
    assert "Skerry Point" in (site / "search.json").read_text()


def test_the_site_describes_every_command_and_option_and_public_name(site):
    commands = (site / "commands.html").read_text()
    for name, command in COMMANDS.items():
        chapter = commands.partition(f'<h2 id="charrnn-{name}">')[2].partition("<h2")[0]
        for parameter in command.params:
            assert max(parameter.opts, key=len) in chapter or parameter.metavar in chapter, f"{name}: {parameter.opts}"
    python = (site / "python.html").read_text()
    for name in ("train", "load", "Model", "Model.sample", "CharrnnError"):
        assert re.search(rf"<h[34] id=[^>]*>{name}<", python), name


def test_the_site_takes_its_tables_from_the_results(site):
    results = (ROOT / "benchmarks/RESULTS.md").read_text()
    cells = [cell.strip().replace("`", "") for row in re.findall(r"^\|(.*)\|$", results, re.M) for cell in row.split(" | ")]
    shown = html.unescape(re.sub(r"<[^>]*>", "", (site / "results.html").read_text()))
    assert len(cells) > 200
    assert not [cell for cell in cells if not re.fullmatch("[-| ]*", cell) and cell not in shown]
