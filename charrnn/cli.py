"""The command line: `main` is the program `charrnn`; every error becomes one line and an exit status.

The commands are in `commands`. Nothing heavy is imported at the top: `--help` does not even import NumPy.
"""

import contextlib
import errno
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

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

app = typer.Typer(name="charrnn", context_settings=HELP, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _program(version: Annotated[bool, option("Print the version and leave.", names=VERSION)] = False) -> None:
    """Learns any text character by character and writes more of it."""


for command in (train, sample, eval, report, info, export, forecast, cache):
    app.command()(command)


def main() -> None:
    """Run the program on `sys.argv` and exit with its status: 0, 1 (failed), 2 (unusable input), 128 + a signal's number."""
    output.escape_unprintable()
    words = sys.argv[1:]
    try:
        if distributed.is_distributed() and "train" not in words[:1]:
            raise CharrnnError("several ranks train one model (torchrun ... -m charrnn train); run this without torchrun")
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
    except Exception as error:
        if hasattr(error, "exit_code"):  # a usage error of Typer's
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            meant = suggest_command(words[0]) if message.startswith("No such command") else ""
            status = _fail(message.rstrip(".") + meant, error.exit_code)
        else:
            status = _fail(_describe_fault(error), 1)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # a stream may be missing or closed
            stream.flush()
    sys.exit(status)


def _describe_fault(error: Exception) -> str:
    """Describe an unexpected exception in one line: what it is and where it was raised."""
    starved = ("can't allocate memory", "cannot allocate memory", "out of memory", "failed to map segment", "bad_alloc")
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in starved):
        return "out of memory; take a smaller text, network or batch"
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}, line {where.lineno}"
    return f"internal error: {type(error).__name__} in {place}: {error}; please report it"


def _fail(message: str, status: int) -> int:
    """Print the error, unless another rank does. Returns: `status`."""
    if message and distributed.is_main():
        output.write_line(f"error: {as_called(message)}")
    return status
