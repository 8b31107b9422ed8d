"""The characters that a network has learned, each with its id: a `Vocabulary`."""

import numpy as np

Ids = np.ndarray  # int32; -1 stands for a character outside the vocabulary
UNKNOWN = "\ufffd"  # the symbol for all characters but the most frequent ones


def code_points(text: str) -> np.ndarray:
    """The characters of `text` as numbers, (N,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def text_of(codes: np.ndarray) -> str:
    """The characters of these code points (N,)."""
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


class Vocabulary:
    """The distinct characters of a text in code-point order; a character's id is its place there.

    >>> Vocabulary("hihello").characters
    'ehilo'
    >>> Vocabulary("hihello").encode("hey")
    array([ 1,  0, -1], dtype=int32)

    With `unknown`, the symbol UNKNOWN, which must be among them, stands for every character that is not.
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
        """The ids of the characters, (N,) int32; -1, or the symbol's id, for each that the vocabulary lacks."""
        codes = code_points(text)
        inside = codes < len(self._ids)
        return np.where(inside, self._ids[np.where(inside, codes, 0)], self._outside)

    def encode_known(self, text: str) -> Ids:
        """The ids of the characters, (n,) int32, without those that have none."""
        ids = self.encode(text)
        return ids[ids >= 0]
