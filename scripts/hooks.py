"""What mkdocs writes into the pages of docs/ as it builds the site, so that it is never stale.

A line of its own in a page is replaced:

    <!-- include: command NAME -->     usage, arguments and options of a command, from the command line's own definition
    <!-- include: python NAME -->      a public name of the package, from its docstring and signature
    <!-- include: results HEADING -->  that chapter of benchmarks/RESULTS.md; without a heading, all of it
    <!-- include: regularization -->   what is chosen against overfitting, from charrnn/training/recipe.py
"""

import inspect
import math
import re
import textwrap
from pathlib import Path
from typing import Any

import typer
from mkdocs.exceptions import PluginError

import charrnn
from charrnn.cli import app
from charrnn.training import recipe

RESULTS = Path(__file__).parent.parent / "benchmarks" / "RESULTS.md"
INCLUDE = re.compile(r"^<!-- include: (\w+) ?(.*?) -->$", re.M)
NOTE = re.compile(r"^<!-- .*? -->\n", re.M)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    included = INCLUDE.sub(lambda match: MAKERS[match[1]](match[2]), markdown)
    return NOTE.sub("", included)


def describe_command(name: str) -> str:
    """A command's help as Markdown."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if name not in commands:
        raise PluginError(f"there is no command {name!r}")
    command = commands[name]
    context = command.context_class(command, info_name=f"charrnn {name}")
    lines = [f"```text\n{command.get_usage(context)}\n```", inspect.cleandoc(command.help or "")]
    for parameter in command.get_params(context):
        names, text = parameter.get_help_record(context)
        text = re.sub(r"\[default: (.*)\]$", r"*Default: \1.*", text)
        lines.append(f"`{names}`\n:   {text}")
    return "\n\n".join(lines)


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
        if inspect.isfunction(argument.default):
            argument = argument.replace(default=...)
        arguments.append(_short(str(argument)).replace("Ellipsis", "..."))
    returns = _short(inspect.formatannotation(signature.return_annotation))
    one_line = f"{name}({', '.join(arguments)}) -> {returns}"
    if len(one_line) > 80:
        one_line = f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f") -> {returns}"
    return f"```python\n{one_line}\n```"


def _short(annotation: str) -> str:
    """An annotation without the modules of its names."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", annotation)


def _prose(thing: Any) -> str:
    """A docstring as Markdown: its examples become code."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"((?:^(?:>>>|\.\.\.) .*\n.+\n?)+)", r"```python\n\1\n```\n", text, flags=re.M)
    text = re.sub(r"  # doctest: .*", "", text)
    return re.sub(r"^((?:Returns|Raises):)", r"*\1*", re.sub(r"\n(?=(?:Returns|Raises):)", "\n\n", text), flags=re.M)


def results(heading: str) -> str:
    """A chapter of the benchmarks' results without its headings; or all of them."""
    text = RESULTS.read_text()
    if not heading:
        return text
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.M | re.S)
    if not found:
        raise PluginError(f"{RESULTS.name} has no chapter {heading!r}")
    return textwrap.dedent(found[2]).strip()


def regularization(_: str) -> str:
    """What `choose` does against overfitting, as a table."""
    lines = ["| read less often than | dropout | of recurrent weights | weight decay |", "| --- | --- | --- | --- |"]
    for epochs, *values in recipe.REGULARIZATION:
        often = f"{epochs:g} times" if epochs < math.inf else f"{recipe.MAX_EPOCHS} times, the most"
        lines.append(f"| {often} | {' | '.join(f'{value:g}' for value in values)} |")
    return "\n".join(lines)


MAKERS = {"regularization": regularization, "command": describe_command, "python": describe_name, "results": results}
