"""Pack a text with its surprisals and guesses compactly for a page; the script in `page.html` unpacks it."""

import base64
import zlib

import numpy as np

from charrnn.inference.surprisal import Details
from charrnn.terminal.heatmap import LEVELS
from charrnn.text.visible import make_visible
from charrnn.text.vocabulary import Vocabulary

Array = np.ndarray
Facts = dict[str, object]  # for the page's script, as JSON

PACKED = 900_000  # largest size of the packed text in base64 letters
CONTEXT = 6  # the planes are sorted by this many preceding characters
NAMES = {" ": "space", "\n": "line break", "\t": "tab", "\r": "carriage return", "\xa0": "hard space"}


def pack_to_fit(vocabulary: Vocabulary, details: Details) -> tuple[str, int, Facts]:
    """Pack as much of the text, from its beginning, as fits into PACKED letters.

    Returns: the base64 letters, the number of characters packed, and facts for the page's script.
    """
    n = len(details.text)
    while True:
        packed, facts = _pack(vocabulary, details.text[:n], details)
        if len(packed) <= PACKED:
            return packed, n, facts
        n = int(n * 0.95 * PACKED / len(packed))


def _pack(vocabulary: Vocabulary, text: str, details: Details) -> tuple[str, Facts]:
    """Pack `text` (N characters) with the surprisal and K guesses of each character, as base64 of compressed bytes.

    All numbers are bytes: characters as indices in `signs` (0: none), surprisals as 40 times their square root, probabilities
    as 100 times theirs. The planes are: the text, the guesses of each character, its surprisal, the probabilities of the
    first to the last guess. All but the text are sorted by the characters before, nearest first, as in the Burrows-Wheeler
    transform: similar values are then adjacent and take a quarter less space. The probability of a right guess is stored as
    0, since the surprisal gives it.
    """
    N = len(text)
    ids, probabilities = details.guesses[:N], details.probabilities[:N]
    alphabet, known = _alphabet(vocabulary, text, np.concatenate([details.ids[:N], ids.ravel()]))
    numbers = {character: i for i, character in enumerate(alphabet, 1)}
    width = (len(alphabet).bit_length() + 7) // 8
    characters = np.array([numbers[character] for character in text])
    table = np.array([numbers.get(character, 0) for character in vocabulary.characters])
    guesses = table[ids]  # (N, K)
    bits = np.minimum(details.surprisals[:N], 40.6)
    chances = np.where(guesses == characters[:, None], 0, probabilities)
    padded = np.concatenate([np.zeros(CONTEXT, np.int64), characters])
    order = np.lexsort([padded[k : k + N] for k in range(CONTEXT)])  # sorts by the last key first
    planes = [_bytes_of(characters, width), _bytes_of(guesses[order], width)]
    planes += [_bytes_of(np.round(40 * np.sqrt(bits[order])), 1), _bytes_of(np.round(100 * np.sqrt(chances[order].T)), 1)]
    compressor = zlib.compressobj(9, memLevel=6)
    data = compressor.compress(b"".join(planes)) + compressor.flush()
    unknown = vocabulary.unknown
    symbol = {} if unknown is None else {vocabulary.characters[unknown]: "any other"}
    return base64.b64encode(data).decode(), {
        "characters": N,
        "guesses": guesses.shape[1],
        "levels": LEVELS,
        "width": width,  # bytes of a character
        "context": CONTEXT,
        "known": known,  # higher indices are characters outside the model's vocabulary
        "newline": numbers.get("\n", -1),
        "signs": ["", *("↵\n" if character == "\n" else make_visible(character) for character in alphabet)],
        "names": {numbers[character]: name for character, name in (NAMES | symbol).items() if character in numbers},
    }


def _alphabet(vocabulary: Vocabulary, text: str, ids: Array) -> tuple[list[str], int]:
    """The distinct characters of `text` and `ids` (-1: none): first those of the vocabulary, by frequency, then others.

    So the high byte of most is 0. Returns: the characters, and how many of them are in the vocabulary.
    """
    counts = np.bincount(ids[ids >= 0], minlength=len(vocabulary))
    alphabet = [vocabulary.characters[i] for i in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]]
    return alphabet + sorted(set(text) - set(alphabet)), len(alphabet)


def _bytes_of(numbers: Array, width: int) -> bytes:
    """Split numbers into `width` planes of bytes: all highest bytes, then all second-highest bytes, and so on."""
    return numbers.astype(">u4").reshape(-1, 1).view(np.uint8)[:, 4 - width :].T.tobytes()
