"""The command line: `main` is the program `charrnn`; every error becomes one line and an exit status.

The commands are in `commands`. Nothing heavy is imported at the top: `--help` does not even import NumPy.
"""

import contextlib
import errno
import re
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from charrnn.commands.cache import cache
from charrnn.commands.common import as_called, option, suggest_command
from charrnn.commands.eval import eval
from charrnn.commands.export import export
from charrnn.commands.forecast import forecast
from charrnn.commands.info import info
from charrnn.commands.report import report
from charrnn.commands.sample import sample
from charrnn.commands.train import train
from charrnn.errors import CharrnnError
from charrnn.terminal import output
from charrnn.training import distributed
from charrnn.version import __version__

HELP = {"help_option_names": ["-h", "--help"]}
VERSION = "-V --version"
# What libraries say when they are short of memory.
STARVED = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "failed to map segment",
    "bad_alloc",
    "create a primitive",
    "execute a primitive",
    "can't start new thread",
    "cannot map zero-fill pages",
    "memory allocation",
)
NAMES = 26  # columns for the names of options in a help; longer ones have a line of their own


class Command(TyperCommand):
    """A command whose help has its options in groups, and the examples at the end of its docstring."""

    def __init__(self, *args: Any, help: str | None = None, **settings: Any):
        text, _, examples = (help or "").partition("\n\nExamples:\n")
        super().__init__(*args, help=text, **settings | {"epilog": examples})

    def groups(self, context: Any) -> dict[str, list[tuple[str, str]]]:
        """The names and texts of arguments and options, under their headings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for parameter in self.get_params(context):
            is_argument = parameter.param_type_name == "argument"
            heading = getattr(parameter, "rich_help_panel", None) or heading
            names = "" if is_argument else ", ".join(sorted(parameter.opts, key=len))
            row = (f"{names} {parameter.metavar or ''}".strip(), getattr(parameter, "help", None) or "")
            groups.setdefault("Arguments" if is_argument else heading, []).append(row)
        return groups

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        once = [parameter for parameter in order if parameter.param_type_name == "option" and not parameter.multiple]
        for parameter in once:
            if once.count(parameter) > 1 and not getattr(parameter, "is_flag", False):
                raise CharrnnError(f"{parameter.opts[-1]} is given twice; give it once")
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(name for name, _ in self.groups(ctx).get("Arguments", []))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups = self.groups(ctx)
        width = max(len(name) for rows in groups.values() for name, _ in rows if len(name) <= NAMES)
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows], col_max=width)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.epilog.splitlines()))


app = typer.Typer(name="charrnn", context_settings=HELP, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(epilog="To begin: charrnn train FILE, then charrnn sample. More about a command: charrnn COMMAND --help")
def _program(version: Annotated[bool, option("Print the version and exit.", names=VERSION)] = False) -> None:
    """Train a character-level language model on any text, and generate more of it."""


for command in (train, sample, eval, report, info, export, forecast, cache):
    app.command(cls=Command)(command)


def main() -> None:
    """Run the program on `sys.argv` and exit with its status: 0, 1 (failed), 2 (unusable input), 128 + a signal's number."""
    output.escape_unprintable()
    words = sys.argv[1:]
    try:
        if distributed.is_distributed() and "train" not in words[:1]:
            raise CharrnnError("only `train` runs under torchrun; run this command without it")
        if words[:1] and words[0] in VERSION.split():
            print(f"charrnn {__version__}")
            status = 0
        elif words:
            status = app(standalone_mode=False, prog_name="charrnn") or 0
        else:
            status = app(["--help"], standalone_mode=False, prog_name="charrnn") or 2
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe early: not an error
        status = 0
    except SystemExit as left:  # Typer makes one of a broken pipe
        status = 0 if isinstance(left.__context__, BrokenPipeError) else int(left.code or 0)
    except KeyboardInterrupt:
        status = 130
    except CharrnnError as error:
        status = _fail(str(error), error.exit_status)
    except OSError as error:
        what = f"{error.filename or 'input or output'}: {error.strerror or error}"
        status = _fail("standard output is closed" if error.errno == errno.EBADF else what, 1)
    except BaseException as error:  # also Rust's PanicException
        if hasattr(error, "exit_code"):  # a usage error of Typer's
            status = _fail(_explain(error, words), error.exit_code)
        else:
            status = _fail(_describe_fault(error), 1)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # a stream may be missing or closed
            stream.flush()
    sys.exit(status)


def _explain(error: Any, words: list[str]) -> str:
    """What is wrong with `words`, of which Typer has made this error, and what would be right."""
    message: str = (error.format_message() if hasattr(error, "format_message") else str(error)).rstrip(".")
    program: Any = typer.main.get_command(app)
    command = program.commands.get(words[0], program)
    options = {flag: parameter for parameter in command.params for flag in parameter.opts}
    name = getattr(error, "option_name", "")
    parameter = getattr(error, "param", None)
    if message.startswith("No such command"):
        nearest = _suggest(words[0], program.commands) or "; see charrnn --help"
        return f"no such command: {words[0]}{suggest_command(words[0]) or nearest}"
    if message.startswith("No such option"):
        help = "charrnn --help" if command is program else f"charrnn {words[0]} --help"
        return f"no such option: {name}{_suggest(name, [*options, '--help']) or f'; see {help}'}"
    if name in options:
        return f"{name} needs a value: {name} {options[name].metavar}" if "requires" in message else f"{name} takes no value"
    if parameter is not None:
        value = command.make_parser(error.ctx).parse_args(words[1:])[0][parameter.name]
        return f"{parameter.opts[-1]} must be a {'whole ' * ('integer' in message)}number, not {value!r}"
    return re.sub(r"^Got unexpected extra argument\S* \((.*)\)$", r"unexpected argument: \1", message)


def _suggest(word: str, words: Iterable[str]) -> str:
    meant = get_close_matches(word, words, n=1)
    return f"; did you mean {meant[0]}?" if meant else ""


def _describe_fault(error: BaseException) -> str:
    """Describe an unexpected exception in one line: what it is and where it was raised."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in STARVED):
        return "out of memory; try a smaller text, network or batch"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return f"internal error: {type(error).__name__} in {place}: {error}; please report it"


def _fail(message: str, status: int) -> int:
    """Print the error, unless another rank does. Returns: `status`."""
    if message and distributed.is_main():
        output.write_line(f"error: {as_called(message)}")
    return status
