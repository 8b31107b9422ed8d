"""A text as numbers: a `Corpus` holds it, a `Vocabulary` says which characters a network knows, `Windows` are cut from it.

It knows nothing of networks, and of files only what `reading` hides from it. Letters: N characters, V vocabulary, B batch,
T time steps.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from charrnn.distributed import ALONE, Group

Ids = np.ndarray  # int32; -1 stands for a character outside the vocabulary
UNKNOWN = "\ufffd"  # the symbol that stands for all characters but the most frequent ones
BLOCK = 1 << 20  # characters that a pass over the text holds at a time
LOOKS, LOOK = 64, 1 << 16  # pieces of a text that are looked at for what is frequent in it, and characters of each
CHUNK = 1 << 12  # characters between two marks in a text that some are left out of; it divides BLOCK


class Sliced(Protocol):
    """What has a length and gives an array for a slice of it: an array itself, or what reads or makes one then."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class Corpus:
    """A text of any length as ids in the order in which its characters first appear; slices of it are arrays of them.

    Such ids need no look at the whole text first, and the characters of its beginning are the first ones of the alphabet.
    """

    def __init__(self, ids: Sliced, codes: np.ndarray, firsts: np.ndarray, fingerprint: str, notes: Sequence[str] = ()):
        self._all, self._codes, self._firsts = ids, codes, firsts
        self.start, self.stop = 0, len(ids)
        self.fingerprint = fingerprint  # two texts with the same one are the same
        self.notes = list(notes)  # for the user, on how it was read
        self.files: list[dict[str, Any]] = []  # that it was read from: their names, sizes in bytes, and hashes
        self.path: Path | None = None  # where its ids are kept

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice, /) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        return self._all[self.start + start : self.start + max(start, stop)]

    @property
    def alphabet(self) -> str:
        """The characters that stand before the end of it; character i has the id i."""
        return _text(self._codes[: np.searchsorted(self._firsts, self.stop)])

    def split(self, validation: float) -> tuple["Corpus", "Corpus"]:
        """Cut the last `validation` (a fraction of 0 to below 1) of it off: (training text, validation text)."""
        training, held_out = copy.copy(self), copy.copy(self)
        training.stop = held_out.start = self.stop - int(len(self) * validation)
        return training, held_out

    def text(self, start: int = 0, stop: int | None = None) -> str:
        """The characters from `start` to `stop`."""
        return _text(self._codes[self[slice(start, stop)]])

    def counts(self) -> np.ndarray:
        """How often each character of the alphabet stands in it."""
        counts = np.zeros(len(self._codes), np.int64)
        for at in range(0, len(self), BLOCK):
            counts += np.bincount(self[at : at + BLOCK], minlength=len(counts))
        return counts[: len(self.alphabet)]

    def vocabulary(self, most: int | None = None) -> "Vocabulary":
        """Its characters; or the `most` frequent ones of them and the UNKNOWN symbol, where it has more."""
        alphabet = self.alphabet
        if most is None or len(alphabet) <= most:
            return Vocabulary(alphabet)
        codes, counts = code_points(alphabet), self.counts()
        order = np.lexsort((codes, -counts))  # the frequent first, and of equals the first in Unicode
        kept = codes[order][codes[order] != ord(UNKNOWN)][:most]
        return Vocabulary(_text(kept) + UNKNOWN, unknown=True)

    def ids(self, vocabulary: "Vocabulary", start: int = 0, stop: int | None = None) -> Ids:
        """The ids that `vocabulary` gives the characters from `start` to `stop`, as `Vocabulary.encode` would, (n,) int32."""
        ids: Ids = vocabulary.encode(self.alphabet)[self[slice(start, stop)]]
        return ids

    def encoded(self, vocabulary: "Vocabulary") -> Sliced:
        """All of it in the ids of `vocabulary`, without the characters that it lacks; a slice is made when it is asked for."""
        return _Encoded(self, vocabulary.encode(self.alphabet))


class _Encoded:
    """What `Corpus.encoded` gives: `table` says a character's id in the vocabulary, -1 for those to leave out."""

    def __init__(self, corpus: Corpus, table: Ids):
        self.corpus, self.table = corpus, table
        self.before: np.ndarray | None = None  # the characters that stay before each CHUNK-th, to find the n-th of them
        if (table < 0).any():
            stay = [np.zeros(1, np.int64)]
            for at in range(0, len(corpus), BLOCK):
                known = table[corpus[at : at + BLOCK]] >= 0
                stay.append(np.add.reduceat(known, range(0, len(known), CHUNK), dtype=np.int64))
            self.before = np.cumsum(np.concatenate(stay))

    def __len__(self) -> int:
        return len(self.corpus) if self.before is None else int(self.before[-1])

    def __getitem__(self, part: slice, /) -> Ids:
        start, stop, _ = part.indices(len(self))
        if self.before is None:
            ids: Ids = self.table[self.corpus[start:stop]]
            return ids
        first = int(np.searchsorted(self.before, start, "right")) - 1
        last = int(np.searchsorted(self.before, stop))
        ids = self.table[self.corpus[first * CHUNK : last * CHUNK]]
        return ids[ids >= 0][start - self.before[first] : stop - self.before[first]]


def frequencies(ids: Sliced, vocabulary_size: int) -> np.ndarray:
    """How often each of the characters comes among `ids`, (V,); in a long text by LOOKS pieces of it, evenly apart."""
    counts = np.zeros(vocabulary_size, np.int64)
    for start in range(0, len(ids), max(LOOK, -(-len(ids) // LOOKS))):
        counts += np.bincount(ids[start : start + LOOK], minlength=vocabulary_size)
    return counts


def code_points(text: str) -> np.ndarray:
    """The characters of `text` as numbers, (N,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _text(codes: np.ndarray) -> str:
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


class Vocabulary:
    """The distinct characters of a text in code-point order; a character's id is its place there.

    >>> Vocabulary("hihello").characters
    'ehilo'
    >>> Vocabulary("hihello").encode("hey")
    array([ 1,  0, -1], dtype=int32)

    With `unknown`, the symbol UNKNOWN among them stands for every character that is not.
    """

    def __init__(self, text: str, unknown: bool = False):
        codes = np.unique(code_points(text))
        self.characters = _text(codes)
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
        known = codes < len(self._ids)
        return np.where(known, self._ids[np.where(known, codes, 0)], self._outside)

    def decode(self, ids: Ids) -> str:
        """The text of `ids` (N,), each of them in 0..V-1."""
        return "".join(self.characters[i] for i in ids)


def fit_windows(characters: int, batch_size: int, seq_length: int) -> tuple[int, int]:
    """The largest (batch_size, seq_length) no larger than asked for that a text of so many characters fills."""
    steps = characters - 1  # each character but the last is an input
    seq_length = max(1, min(seq_length, steps))
    return max(1, min(batch_size, steps // seq_length)), seq_length


AHEAD = 16  # windows that are read at once
FRESH = 50  # windows between two fresh starts of a stream, on average
BY_HEART = 2_000  # characters; a shorter text is read in one piece, to be learned by heart


class Windows:
    """Windows of T characters cut from B contiguous streams of one text, epoch after epoch.

    Window k of a stream follows window k - 1, so the state at the end of one is the state at the start of the next; the
    last window of an epoch is as short as what is left of the streams. A stream ends where the next one starts, so that
    from one epoch to the next the states move on by one stream: the text is read as one piece, from the zero state.

    In a text of some length each stream also begins afresh after FRESH windows on average: a network that has hardly met
    the zero state would write nonsense from it.

    Of several ranks each cuts the windows of its `group`'s part of the streams, and reads no other text.
    """

    def __init__(self, ids: Sliced, batch_size: int, seq_length: int, seed: int, group: Group = ALONE):
        self.ids, self.seq_length, self.seed = ids, seq_length, seed
        self.mine = group.part(batch_size)
        steps = len(ids) - 1
        self.starts = np.arange(batch_size) * steps // batch_size  # where streams don't divide the text, some share a step
        self.stream_length = -(-steps // batch_size)
        self.per_epoch = -(-self.stream_length // seq_length)
        self._piece, self._ahead = -1, np.empty((0, 0), np.int32)

    def _read(self, piece: int) -> Ids:
        """What AHEAD windows are cut from: read at once, since reads by streams take a small network's time."""
        if piece != self._piece:
            first, last = (min(k * AHEAD * self.seq_length, self.stream_length) for k in (piece, piece + 1))
            streams = [self.ids[start + first : start + last + 1] for start in self.starts[self.mine]]
            self._piece, self._ahead = piece, np.stack(streams, axis=1)
        return self._ahead

    def __getitem__(self, step: int) -> tuple[Ids, Ids, np.ndarray, bool, int]:
        """Window number `step` of the run.

        Returns: inputs (T, B), targets (T, B), which streams begin with it from the zero state (B,), whether the states
        first move on by one stream, and how many characters all ranks learn of it. B is here the number of a rank's streams.
        """
        epoch, window = divmod(step, self.per_epoch)
        first = window * self.seq_length
        length = min(self.seq_length, self.stream_length - first)
        ids = self._read(window // AHEAD)[first % (AHEAD * self.seq_length) :][: length + 1]  # (T + 1, B)
        begins = np.zeros(len(self.starts), bool)
        if len(self.ids) >= BY_HEART:
            begins |= np.random.default_rng((self.seed, epoch, window)).random(len(begins)) < 1 / FRESH
        begins[0] |= window == 0
        return ids[:-1], ids[1:], begins[self.mine], window == 0, length * len(self.starts)


def scoring_blocks(
    length: int, streams: int, warm_up: int, block: int, stretch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut each `stretch` of `length` steps into parallel streams, each warmed up by the steps before its own part.

    Yields (positions (T, S), counts (T, S)) with T <= `block`: where each stream stands, and whether the step is its own
    to score. Positions below 0 are those of a stream that has not begun.
    """
    for begin in range(0, length, stretch):
        stop = min(begin + stretch, length)
        part = -(-(stop - begin) // streams)
        starts = begin + part * np.arange(streams)
        for first in range(-warm_up if streams > 1 else 0, part, block):
            offset = np.arange(first, min(first + block, part))[:, None]
            at = starts + offset
            yield np.minimum(at, stop - 1), (offset >= 0) & (at < stop)
