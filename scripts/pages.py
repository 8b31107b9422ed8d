"""Run the commands of README.md and docs/ and write their output into these pages: `make docs`.

A page is a session: its `console` blocks and `python` scripts run one after the other in a new folder, which holds the
project's `corpora` and nothing else. What a script prints is in the `text` block right below it. Comments right above a
block change how it is run:

    <!-- not run: REASON -->    it is not run
    <!-- shorter: A => B -->    the test runs B where the page says A
    <!-- same: WHAT -->         what of the output is the same on every machine and in the test (SAME); else all of it
    <!-- show: N and M -->      of each output the page has the first N lines and the last M

`tests/test_docs.py` runs the same blocks and compares.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

GENERATED = r"^<!-- include: .*?^<!-- end -->$"  # scripts/reference.py makes it
BLOCK = re.compile(
    GENERATED
    + r"|^(?P<notes>(?:<!-- .*? -->\n)*)```(?P<kind>console|python)\n(?P<body>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.M | re.S,
)
COMMAND = re.compile(r"^\$ (.*\n(?:> .*\n)*)((?:(?!\$ ).*\n)*)", re.M)
NOTE = re.compile(r"^<!-- (not run|shorter|same|show): (.*) -->$", re.M)

NUMBER = re.compile(r"-*\d[\d.,:e+-]*|\s+")

SAME: dict[str, Callable[[str, str], bool]] = {
    "all": lambda shown, printed: shown == printed,
    "words": lambda shown, printed: NUMBER.sub(" ", shown).split() == NUMBER.sub(" ", printed).split(),  # not the numbers
    "number of lines": lambda shown, printed: shown.count("\n") == printed.count("\n"),
    "length": lambda shown, printed: abs(len(shown) - len(printed)) <= 1,  # but for a last line break
    "last line": lambda shown, printed: shown.splitlines()[-1:] == printed.splitlines()[-1:],
    "nothing": lambda shown, printed: bool(shown) == bool(printed),  # but that something is printed
}


@dataclass
class Block:
    """Commands of a page, each with the output that the page shows."""

    kind: str  # "console" or "python": then one command, the script
    notes: str  # the comments above it
    commands: list[tuple[str, str]]

    def values(self, key: str) -> list[str]:
        """The values of `key` in the block's comments."""
        return [value for name, value in NOTE.findall(self.notes) if name == key]

    def excerpt(self, output: str) -> str:
        """The part of `output` that the page shows."""
        lines = output.splitlines(keepends=True)
        for numbers in self.values("show"):
            first, last = map(int, numbers.split(" and "))
            if len(lines) > first + last + 1:
                lines[first : len(lines) - last] = ["...\n"]
        return "".join(lines)

    def shorter(self, command: str) -> str:
        """The command that the test runs in place of `command`."""
        for pair in self.values("shorter"):
            before, after = pair.split(" => ")
            command = command.replace(before, after)
        return command

    def agrees(self, shown: str, printed: str) -> bool:
        """Whether the page's output and that of the test's command agree in all that is the same everywhere."""
        return all(SAME[what](shown, self.excerpt(printed)) for what in self.values("same") or ["all"])

    def text(self) -> str:
        """The block as Markdown."""
        if self.kind == "python":
            (script, output), *_ = self.commands
            below = f"\n```text\n{output}```\n" if output else ""
            return f"{self.notes}```python\n{script}```\n{below}"
        lines = "".join(f"$ {command.replace(chr(10), chr(10) + '> ')}\n{output}" for command, output in self.commands)
        return f"{self.notes}```console\n{lines}```\n"


def parse(text: str) -> Iterator[str | Block]:
    """The pieces of a page: blocks that run, and the text between them. Doctests (`>>>`) and generated parts are text here."""
    end = 0
    for match in BLOCK.finditer(text):
        if match["body"] is None or match["body"].startswith(">>> "):
            continue
        yield text[end : match.start()]
        commands = [(match["body"], match["printed"] or "")]
        if match["kind"] == "console":
            found = COMMAND.findall(match["body"])
            commands = [(command.rstrip("\n").replace("\n> ", "\n"), output) for command, output in found]
        yield Block(match["kind"], match["notes"], commands)
        end = match.end()
    yield text[end:]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that run."""
    return [piece for piece in parse(page.read_text()) if isinstance(piece, Block) and not piece.values("not run")]


class Session:
    """A home folder in which commands run one after the other, in bash, without a terminal."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve() / "session"
        shutil.copytree(ROOT / "corpora", self.folder / "corpora")
        tools = folder / "tools"
        tools.mkdir()
        for name, arguments in (("charrnn", "-m charrnn"), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            (tools / name).chmod(0o755)
        paths = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        self.env = {**os.environ, **paths, "COLUMNS": "100", "NO_COLOR": "1"}

    def run(self, kind: str, command: str) -> str:
        """What a command prints to both streams. Raises: RuntimeError where it, or a part of its pipe, fails."""
        arguments = ["bash", "-o", "pipefail", "-c"] if kind == "console" else [sys.executable, "-c"]
        done = subprocess.run(
            [*arguments, command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=1200,
        )
        output = done.stdout.decode().replace(str(self.folder), "~")
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode} of: {command}\n{output}")
        return output + "\n" * (bool(output) and not output.endswith("\n"))


def main() -> None:
    """Update the pages that are named, or all."""
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        pieces = []
        with tempfile.TemporaryDirectory() as folder:
            session = Session(Path(folder))
            for piece in parse(page.read_text()):
                if isinstance(piece, Block) and not piece.values("not run"):
                    for k, (command, _) in enumerate(piece.commands):
                        began = time.monotonic()
                        output = piece.excerpt(session.run(piece.kind, command))
                        if re.search(r"^(\$ |```)", output, re.M):
                            raise ValueError(f"the page can't hold the output of: {command}\n{output}")
                        piece.commands[k] = command, output
                        print(f"{time.monotonic() - began:6.1f} s  {page.name}: {command.splitlines()[0]}", flush=True)
                pieces.append(piece.text() if isinstance(piece, Block) else piece)
        page.write_text("".join(pieces))


if __name__ == "__main__":
    main()
