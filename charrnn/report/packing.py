"""A text with its surprisals and guesses as few letters as can stand in a page; the script in `report.html` unpacks them."""

import base64
import zlib
from typing import Any

import numpy as np

from charrnn.inference.model import Model
from charrnn.inference.surprisal import Details
from charrnn.terminal.color import LEVELS
from charrnn.terminal.output import printable
from charrnn.text.corpus import Corpus

Array = np.ndarray

PACKED = 900_000  # letters that the packed text may take in the file
NAMES = {" ": "space", "\n": "line break", "\t": "tab", "\r": "carriage return", "\xa0": "hard space"}


def pack_to_fit(model: Model, text: Corpus, details: Details) -> tuple[str, dict[str, Any]]:
    """What the page's script needs: the packed text, no longer than PACKED, and what it must know to unpack it."""
    n = len(text)
    while True:
        packed, facts = _pack(model, text.text(0, n), details)
        if len(packed) <= PACKED:
            return packed, facts
        n = int(n * 0.95 * PACKED / len(packed))


def _pack(model: Model, text: str, details: Details) -> tuple[str, dict[str, Any]]:
    """Each character of `text`, its surprisal and its guesses, as letters of base64.

    Numbers are bytes: surprisals as 40 times their root, probabilities as 100 times theirs, characters as their place in a
    list. A plane holds one number of each character, in an order in which like ones stand together: sorted by numbers that
    were unpacked before. So zlib finds them twice as easy. The probability of a guess that came true is left out, since the
    surprisal says it.
    """
    N = len(text)
    (guesses, probabilities), vocabulary = (part[:N] for part in details.expected), model.vocabulary
    used = np.unique(np.concatenate([guesses[guesses >= 0], details.ids[:N][details.ids[:N] >= 0]])).tolist()
    own = [vocabulary.characters[i] for i in used]
    alphabet = own + sorted(set(text) - set(own))
    place = {character: i for i, character in enumerate(alphabet, 1)}  # 0 stands for no character
    from_ids = np.zeros(len(vocabulary) + 1, np.int64)  # -1 finds the last
    from_ids[used] = range(1, len(used) + 1)
    width = 1 if len(alphabet) < 256 else 2 if len(alphabet) < 65536 else 3
    planes: list[bytes] = []

    def by(order: Array, values: Array) -> Array:
        sorted_: Array = order[np.argsort(values[order], kind="stable")]
        return sorted_

    def put(order: Array, values: Array) -> Array:
        planes.append(values[order].astype(np.uint8).tobytes())
        return by(order, values)

    def parts(values: Array) -> list[Array]:
        return [values >> 8 * w & 255 for w in reversed(range(width))]

    in_order = np.arange(N)
    letters, guessed = np.array([place[character] for character in text]), from_ids[guesses]
    order = in_order
    for part in parts(letters):
        order = put(order, part)
    order = in_order
    for back in (2, 1):
        for part in parts(letters):
            order = by(order, np.concatenate([np.zeros(back, np.int64), part])[:N])
    for guess in guessed.T:
        for part in parts(guess):
            order = put(order, part)
    hits = guessed == letters[:, None]
    hit = np.where(hits.any(axis=1), hits.argmax(axis=1), hits.shape[1])
    order = put(by(in_order, hit), np.round(40 * np.sqrt(np.minimum(details.surprisals[:N], 40.6))).astype(np.int64))
    for k, chance in enumerate(probabilities.T):
        left_out = np.where(hits[:, k], 0, np.round(100 * np.sqrt(chance))).astype(np.int64)
        order = put(by(order, hits[:, k].astype(np.int64)), left_out)
    compressor = zlib.compressobj(9, memLevel=6)
    data = compressor.compress(b"".join(planes)) + compressor.flush()
    names = {place[c]: name for c, name in NAMES.items() if c in place}
    if vocabulary.unknown is not None and vocabulary.characters[vocabulary.unknown] in place:
        names[place[vocabulary.characters[vocabulary.unknown]]] = "any other"
    facts = {
        "characters": N,
        "guesses": guesses.shape[1],
        "levels": LEVELS,
        "width": width,
        "known": len(used),
        "newline": place.get("\n", -1),
        "signs": ["", *("↵\n" if c == "\n" else printable(c) for c in alphabet)],
        "names": names,
    }
    return base64.b64encode(data).decode(), facts
