"""Spelling and plain words, in the pages and in what the program prints; and that the results stay readable."""

import ast
import re
import subprocess
import sys
import tokenize

import pytest
from conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), ROOT / "corpora/README.md"]
CODE = sorted((ROOT / "charrnn").rglob("*.py"))
LOG = ROOT / "benchmarks/TRIALS.md"
INSTEAD = {  # what readers have to read twice: the field's own term, or a plainer word
    r"readings\b": "epochs",
    r"\bby heart\b": "memorise, overfitting",
    r"\bfrom nothing\b": "from scratch",
    r"\bis worth\b": "gains",
    r"\bearns? (its|their) time\b|\bin vain\b": "does not pay",
    r"\bunlearn": "forget",
    r"\bgo(es)? on (from|to|with)\b": "continue",
    r"\banew\b": "again",
    r"\bknows? (a|the) text\b|\bhow well (a|the) model knows\b": "predicts the text",
    r"\bthe very\b": "exactly the same",
    r"\bstands? in\b": "is in",
    r"\bhas a fault\b": "internal error",
    r"\bis none of\b": "must be one of",
    r"\basks nothing of\b": "needs no",
    r"\ball else\b": "the rest",
    r"\bso long\b": "for that time",
    r"\brandomness begins\b": "random seed",
    r"\bstreams?\b(?! *[=.])|windows of \d": "batch size, sequence length",
    r"\bsittings?\b": "session",
    r"\breckon": "compute, estimate",
    r"\bfrom which on\b": "from which",
    r"\bis held to\b": "is checked against",
    r"\bso many (characters|steps|epochs|windows)\b": "a number of, this many",
}
ABOUT_MEMORY = ("docs/lessons.md", "corpora/README.md")  # a lesson is about learning a word by heart


def find_banned(text):
    """Yield (line, the words found, what to write instead)."""
    return [
        (text.count("\n", 0, match.start()) + 1, match[0], instead)
        for pattern, instead in INSTEAD.items()
        for match in re.finditer(pattern, text, re.I)
    ]


def printed_strings(path):
    """The lines of code with texts for users: strings with a space that are not docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [(node.lineno, node.value) for node in strings if id(node) not in docstrings and " " in node.value]


def comments_and_docstrings(path):
    """The comments and docstrings of a module, each with its line."""
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    comments = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, owners)]
    return comments + [(node.body[0].lineno, text) for node in nodes if (text := ast.get_docstring(node))]


def test_the_spelling_is_right(tmp_path):
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)  # not what models write
        (tmp_path / str(page.relative_to(ROOT)).replace("/", " ")).write_text(prose)
    checked = [*tmp_path.iterdir(), *CODE, ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "zensical.toml"]
    done = subprocess.run([sys.executable, "-m", "codespell_lib", *checked], cwd=ROOT, capture_output=True, text=True)
    assert not done.stdout + done.stderr


def test_the_spelling_check_notices_a_mistake(tmp_path):
    (tmp_path / "page.md").write_text("This is teh page.\n")
    done = subprocess.run([sys.executable, "-m", "codespell_lib", tmp_path], capture_output=True, text=True)
    assert "teh ==> the" in done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if page != LOG], ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_plain_words(page):
    name = str(page.relative_to(ROOT))
    assert [found for found in find_banned(page.read_text()) if not (name in ABOUT_MEMORY and "heart" in found[1])] == []


@pytest.mark.parametrize("texts", [printed_strings, comments_and_docstrings])
def test_the_program_uses_plain_words(texts):
    found = [
        (f"{path.relative_to(ROOT)}:{line}", word, instead)
        for path in CODE
        for line, text in texts(path)
        for _, word, instead in find_banned(text)
        if texts is printed_strings or not word.startswith("stream")  # standard streams
    ]
    assert found == []


def test_banned_words_are_found():
    assert find_banned("One.\nAll else stands in it.\n") == [(2, "stands in", "is in"), (2, "All else", "the rest")]


def test_the_results_are_short_and_the_log_has_its_contents():
    assert (ROOT / "benchmarks/RESULTS.md").read_text().count("\n") <= 200
    log = LOG.read_text()
    titles = re.findall(r"^#{2,3} (.*)$", log.partition("## Contents")[2], re.M)
    links = re.findall(r"^ *- \[(.*)\]\(#(.*)\)$", log, re.M)
    assert links == [(title, re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")) for title in titles]
