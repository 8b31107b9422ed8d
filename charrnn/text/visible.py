"""Make control characters visible, so that text from a model or file can't control a terminal or page."""

import unicodedata
from collections.abc import Mapping

OBEYED = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories of control characters and line ends
REORDERING = {*map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))}  # bidirectional marks
# Characters of no width.
INVISIBLE = [*map(chr, (0x00AD, *range(0x200B, 0x200E), *range(0x2060, 0x2065), *range(0xFE00, 0xFE10), 0xFEFF))]


def _number(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


LINE_SIGNS = {"\n": "↵", "\t": "⇥"}  # for text on a single line
SINGLE_SIGNS = LINE_SIGNS | {c: _number(c) for c in INVISIBLE}  # for a single character


def make_visible(text: str, keep: str = "\n\t", signs: Mapping[str, str] = {}) -> str:
    """Replace each character that controls a terminal or reorders text by its sign in `signs`, or else by its escape code.

    Characters in `keep` stay as they are.

    >>> make_visible("a\\x1b[31mb"), make_visible("to be,\\n\\x07or", signs=LINE_SIGNS)
    ('a\\\\x1b[31mb', 'to be,↵\\\\x07or')
    """
    obeyed = (c for c in set(text) - set(keep) if unicodedata.category(c) in OBEYED or c in REORDERING)
    shown = {c: _number(c) for c in obeyed} | dict(signs)
    return "".join(shown.get(c, c) for c in text)
