"""Fill the generated parts of docs/ from the code: `make reference`. A test checks that they are up to date.

A generated part is between two comments, of which the first says what to generate:

    <!-- include: command NAME -->     usage, arguments and options of a command, from the command line's own definition
    <!-- include: python NAME -->      a public name of the package, from its docstring and signature
    <!-- include: results HEADING -->  a chapter of RESULTS.md or TRIALS.md in benchmarks/; without a heading, all of RESULTS.md
    <!-- include: sizes -->            the sizes that are chosen for a time, from charrnn/training/recipe.py
    <!-- include: regularization -->   what is chosen against overfitting, from the same file
    <!-- end -->
"""

import inspect
import math
import re
from pathlib import Path
from typing import Any

import typer

import charrnn
from charrnn.cli import HELP, app
from charrnn.training import recipe

ROOT = Path(__file__).parent.parent
PART = re.compile(r"^(<!-- include: (\w+) ?([^\n]*?) -->\n).*?^(<!-- end -->)$", re.M | re.S)


def fill(page: str) -> str:
    """A page's Markdown with its generated parts made anew. Raises: KeyError for a part that nothing makes."""
    return PART.sub(lambda part: f"{part[1]}\n{MAKERS[part[2]](part[3] or '').strip()}\n\n{part[4]}", page)


def describe_command(name: str) -> str:
    """A command's help as Markdown: usage, text, and its arguments and options in their groups."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.context_class(command, info_name=f"charrnn {name}", **HELP)
    parts = [f"```text\n{command.get_usage(context)}\n```", inspect.cleandoc(command.help or "")]
    for heading, rows in command.groups(context).items():
        texts = [(name, re.sub(r"\[default: (.*)\]$", r"*Default: \1.*", text)) for name, text in rows]
        parts += [f"**{heading}**", "\n".join(f"- `{name}`: {text}" for name, text in texts)]
    return "\n\n".join([*parts, "**Examples**", f"```text\n{command.epilog}\n```"])


def describe_name(name: str) -> str:
    """A public name of the package as Markdown: signature and docstring, and those of a class's public methods."""
    thing = getattr(charrnn, name)
    if not inspect.isclass(thing):
        return f"### {name}\n\n{_signature(name, thing)}\n\n{_prose(thing)}"
    parts = [f"### {name}", _prose(thing)]
    for method, function in vars(thing).items():
        if inspect.isfunction(function) and not method.startswith("_"):
            parts += [f"#### {name}.{method}", _signature(method, function), _prose(function)]
    return "\n\n".join(parts)


def _signature(name: str, function: Any) -> str:
    """A function's signature as code; a long one has a line for each argument."""
    signature = inspect.signature(function)
    arguments = []
    starred = False
    for argument in signature.parameters.values():
        if argument.name == "self":
            continue
        if argument.kind is argument.KEYWORD_ONLY and not starred:
            arguments.append("*")
            starred = True
        shown = str(argument)
        if isinstance(argument.annotation, str):
            shown = shown.replace(repr(argument.annotation), argument.annotation)
        arguments.append(_short(shown))
    returns = _short(inspect.formatannotation(signature.return_annotation))
    one_line = f"{name}({', '.join(arguments)}) -> {returns}"
    if len(one_line) > 80:
        one_line = f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f") -> {returns}"
    return f"```python\n{one_line}\n```"


def _short(annotation: str) -> str:
    """An annotation without the modules of its names."""
    return re.sub(r"\b(?:[^\W\d]\w*\.)+(?=\w)", "", annotation)


def _prose(thing: Any) -> str:
    """A docstring as Markdown: its examples become code."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"((?:^(?:>>>|\.\.\.) .*\n.+\n?)+)", r"```python\n\1\n```\n", text, flags=re.M)
    text = re.sub(r"  # doctest: .*", "", text)
    return re.sub(r"^((?:Returns|Raises):)", r"*\1*", re.sub(r"\n(?=(?:Returns|Raises):)", "\n\n", text), flags=re.M)


def results(heading: str) -> str:
    """A chapter of the benchmarks' results, or of the trials, without its headings; or all results. Raises: KeyError."""
    results, trials = ((ROOT / "benchmarks" / name).read_text() for name in ("RESULTS.md", "TRIALS.md"))
    chapter = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", results + trials, re.M | re.S)
    if heading and not chapter:
        raise KeyError(heading)
    return (chapter[1] if chapter else results).replace("](TRIALS.md", "](../benchmarks/TRIALS.md")


def sizes(_: str) -> str:
    """The table from which `choose` takes the sizes, with times for a machine of usual speed."""
    lines = ["| time (less than) | layers | units | batch size | sequence length | learning rate |", "| --- " * 6 + "|"]
    for characters, *values in recipe.SIZES:
        seconds = characters / recipe.SPEED
        time = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min" if seconds < math.inf else "more"
        lines.append(f"| {time} | {' | '.join(f'{value:g}' for value in values)} |")
    return "\n".join(lines)


def regularization(_: str) -> str:
    """What `choose` does against overfitting, as a table."""
    lines = ["| epochs (fewer than) | dropout | of recurrent weights | weight decay |", "| --- | --- | --- | --- |"]
    for epochs, *values in recipe.REGULARIZATION:
        often = f"{epochs:g}" if epochs < math.inf else f"{recipe.MAX_EPOCHS} (maximum)"
        lines.append(f"| {often} | {' | '.join(f'{value:g}' for value in values)} |")
    return "\n".join(lines)


MAKERS = {
    "command": describe_command,
    "python": describe_name,
    "regularization": regularization,
    "results": results,
    "sizes": sizes,
}


def main() -> None:
    """Fill the pages of docs/."""
    for page in (ROOT / "docs").glob("*.md"):
        page.write_text(fill(page.read_text()))


if __name__ == "__main__":
    main()
