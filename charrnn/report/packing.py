"""A text with its surprisals and guesses as few letters as can stand in a page; the script in `page.html` unpacks them."""

import base64
import zlib

import numpy as np

from charrnn.inference.model import Model
from charrnn.inference.surprisal import Details
from charrnn.terminal.heatmap import LEVELS
from charrnn.text.corpus import Corpus
from charrnn.text.visible import make_visible
from charrnn.text.vocabulary import Vocabulary

Array = np.ndarray
Facts = dict[str, object]  # for the page's script, as JSON

PACKED = 900_000  # letters that the packed text may take in the file
CONTEXT = 6  # characters before each one, by which the planes are sorted
NAMES = {" ": "space", "\n": "line break", "\t": "tab", "\r": "carriage return", "\xa0": "hard space"}


def pack_to_fit(model: Model, text: Corpus, details: Details) -> tuple[str, int, Facts]:
    """Pack as much of the text's beginning as fits into PACKED letters of base64.

    Returns: these letters, the characters that fit, and what the page's script must know to unpack and show them.
    """
    n = len(text)
    while True:
        packed, facts = _pack(model, text.text(0, n), details)
        if len(packed) <= PACKED:
            return packed, n, facts
        n = int(n * 0.95 * PACKED / len(packed))


def _pack(model: Model, text: str, details: Details) -> tuple[str, Facts]:
    """Each character of `text` (N), its surprisal and its K guesses, as letters of base64.

    All numbers are bytes: characters as places in `signs` (0 is no character), surprisals as 40 times their root,
    probabilities as 100 times theirs. After the text come the guesses of each character, its surprisal, and the probabilities
    of the first to the last guess. These are sorted by the characters before each, the nearest first, as the Burrows-Wheeler
    transform does: so like ones stand together, and take a quarter less room. The probability of a guess that came true is
    left out (0), since the surprisal gives it.
    """
    N = len(text)
    ids, probabilities = (part[:N] for part in details.expected)
    alphabet, known = _alphabet(model.vocabulary, text, np.concatenate([details.ids[:N], ids.ravel()]))
    numbers = {character: i for i, character in enumerate(alphabet, 1)}
    width = (len(alphabet).bit_length() + 7) // 8
    characters = np.array([numbers[character] for character in text])
    table = np.array([numbers.get(character, 0) for character in model.vocabulary.characters] + [0])  # the last is of id -1
    guesses = table[ids]  # (N, K)
    bits = np.minimum(details.surprisals[:N], 40.6)
    chances = np.where(guesses == characters[:, None], 0, probabilities)
    padded = np.concatenate([np.zeros(CONTEXT, np.int64), characters])
    order = np.lexsort([padded[k : k + N] for k in range(CONTEXT)])  # by the last of these keys first
    planes = [_bytes_of(characters, width), _bytes_of(guesses[order], width)]
    planes += [_bytes_of(np.round(40 * np.sqrt(bits[order])), 1), _bytes_of(np.round(100 * np.sqrt(chances[order].T)), 1)]
    compressor = zlib.compressobj(9, memLevel=6)
    data = compressor.compress(b"".join(planes)) + compressor.flush()
    unknown = model.vocabulary.unknown
    symbol = {} if unknown is None else {model.vocabulary.characters[unknown]: "any other"}
    return base64.b64encode(data).decode(), {
        "characters": N,
        "guesses": guesses.shape[1],
        "levels": LEVELS,
        "width": width,  # bytes of a character
        "context": CONTEXT,
        "known": known,  # places after this one are of characters outside the model's vocabulary
        "newline": numbers.get("\n", -1),
        "signs": ["", *("↵\n" if character == "\n" else make_visible(character) for character in alphabet)],
        "names": {numbers[character]: name for character, name in (NAMES | symbol).items() if character in numbers},
    }


def _alphabet(vocabulary: Vocabulary, text: str, ids: Array) -> tuple[list[str], int]:
    """The characters of `text` and of `ids` (-1 for none), and how many of them, the first ones, the vocabulary has.

    These come by their frequency among `ids`, so that the high byte of most is 0. The others follow.
    """
    counts = np.bincount(ids[ids >= 0], minlength=len(vocabulary))
    alphabet = [vocabulary.characters[i] for i in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]]
    return alphabet + sorted(set(text) - set(alphabet)), len(alphabet)


def _bytes_of(numbers: Array, width: int) -> bytes:
    """`width` planes of bytes, of the highest ones first: the numbers' first bytes, their second bytes, and so on."""
    return numbers.astype(">u4").reshape(-1, 1).view(np.uint8)[:, 4 - width :].T.tobytes()
