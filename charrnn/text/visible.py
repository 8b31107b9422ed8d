"""Makes control characters visible: text from a model or a file is data, and no terminal or page shall obey it."""

import unicodedata
from collections.abc import Mapping

OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of controls, bidirectional marks, surrogates and line ends
LINE_SIGNS = {"\n": "↵", "\t": "⇥"}  # for a text that must stay on one line


def make_visible(text: str, keep: str = "\n\t", signs: Mapping[str, str] = {}) -> str:
    """Replace each character that a terminal would obey: by its sign where `signs` has one, else by its number.

    Characters in `keep` stay as they are.

    >>> make_visible("a\\x1b[31mb"), make_visible("to be,\\n\\x07or", signs=LINE_SIGNS)
    ('a\\\\x1b[31mb', 'to be,↵\\\\x07or')
    """
    obeyed = (c for c in set(text) - set(keep) if unicodedata.category(c) in OBEYED)
    shown = {c: c.encode("unicode_escape").decode("ascii") for c in obeyed} | dict(signs)
    return "".join(shown.get(c, c) for c in text)
