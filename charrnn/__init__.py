"""charrnn learns any text character by character and writes more of it.

>>> import charrnn
>>> model = charrnn.train("corpora/if-you.txt", seconds="10s")  # doctest: +SKIP
>>> model.sample(prime="if you", length=200, temperature=0.8, seed=1)  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from charrnn.version import __version__

if TYPE_CHECKING:
    from charrnn.api import load, train
    from charrnn.errors import CharrnnError
    from charrnn.inference.model import Model

__all__ = ["CharrnnError", "Model", "__version__", "load", "train"]
_HOMES = {"CharrnnError": "errors", "Model": "inference.model", "load": "api", "train": "api"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import charrnn` is fast and does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'charrnn' has no attribute {name!r}")
    return getattr(import_module(f"charrnn.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names even before they are imported, for `dir` and tab completion."""
    return __all__
