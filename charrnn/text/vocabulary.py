"""The vocabulary: characters and their ids."""

import unicodedata
from typing import Literal

import numpy as np

Ids = np.ndarray  # int32; -1 is a character outside the vocabulary
UNKNOWN = "\ufffd"  # the symbol for all characters outside a limited vocabulary


def code_points(text: str) -> np.ndarray:
    """The code points of `text`, (N,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def text_of(codes: np.ndarray) -> str:
    """The text with these code points (N,)."""
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


class Vocabulary:
    """The distinct characters of a text, sorted by code point. A character's id is its index.

    >>> Vocabulary("hihello").characters
    'ehilo'
    >>> Vocabulary("hihello").encode("hey")
    array([ 1,  0, -1], dtype=int32)

    With `unknown`, the symbol UNKNOWN, which must be one of them, represents all other characters.
    """

    def __init__(self, text: str, unknown: bool = False):
        codes = np.unique(code_points(text))
        self.characters = text_of(codes)
        self.unknown = self.characters.index(UNKNOWN) if unknown else None  # the symbol's id
        self._outside = np.int32(-1 if self.unknown is None else self.unknown)
        self._ids = np.full(int(codes[-1]) + 1 if len(codes) else 1, self._outside, np.int32)
        self._ids[codes] = np.arange(len(codes), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.characters)

    def __repr__(self) -> str:
        return f"Vocabulary({self.characters!r})"

    def encode(self, text: str) -> Ids:
        """The ids of the characters, (N,) int32. Unknown characters get -1, or the id of the UNKNOWN symbol."""
        codes = code_points(text)
        inside = codes < len(self._ids)
        return np.where(inside, self._ids[np.where(inside, codes, 0)], self._outside)

    def encode_known(self, text: str) -> Ids:
        """The ids of the characters, (n,) int32, without unknown ones."""
        ids = self.encode(text)
        return ids[ids >= 0]

    @property
    def is_space(self) -> np.ndarray:
        """Which characters are white space, (V,) bool."""
        return np.array([character.isspace() for character in self.characters])

    def is_unknown(self, text: str) -> np.ndarray:
        """Which characters of `text` are unknown, (N,) bool."""
        ids = self.encode(text)
        outside: np.ndarray = (ids < 0) | (ids == self.unknown)
        return outside


def hint_at_form(vocabulary: Vocabulary, text: str) -> list[str]:
    """A note for the user if most unknown characters of `text` would be known in another Unicode normal form."""
    unknown = vocabulary.is_unknown(text).sum()
    forms: dict[Literal["NFC", "NFD"], str] = {"NFC": "composed", "NFD": "decomposed"} if unknown else {}
    for form, name in forms.items():
        if 2 * vocabulary.is_unknown(unicodedata.normalize(form, text)).sum() < unknown:
            cure = f"convert the text: uconv -x any-{form.lower()}"
            return [f"the model was trained on {name} characters (Unicode's {form}); {cure}"]
    return []
