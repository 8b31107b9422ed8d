"""Passages that a sample copies from its training text: compared with a brute-force search; memory is bounded."""

import json
import random
import tracemalloc

import numpy as np
import pytest
from conftest import CORPORA, charrnn

from charrnn.text import copying
from charrnn.text.copying import CopyFinder, Passage
from charrnn.text.corpus import Corpus
from charrnn.text.reading import build_corpus

LAMP = (CORPORA / "the-lamp.txt").read_text()


def search(sample, text, length):
    """Brute force: which characters are in copied passages of `length`; (length, text position) of the longest passage."""
    inside = [False] * len(sample)
    longest = (0, 0)
    for i in range(len(sample)):
        n = 0
        while i + n < len(sample) and sample[i : i + n + 1] in text:
            n += 1
        if n and n >= longest[0]:
            longest = max(longest, (n, -text.find(sample[i : i + n])))
        if n >= length:
            inside[i : i + n] = [True] * n
    return inside, (longest[0], -longest[1])


def patchwork(rng, letters):
    """A random text, and a sample made of random characters and pieces of the text."""
    text = "".join(rng.choices(letters, k=rng.randrange(1, 300)))
    sample = ""
    for _ in range(rng.randrange(4)):
        sample += "".join(rng.choices(letters + "xyz", k=rng.randrange(20)))
        at = rng.randrange(len(text))
        sample += text[at : at + rng.randrange(1, 60)] * rng.choice([1, 1, 2])
    return sample or "z", text


@pytest.mark.parametrize(("block", "base"), [(1 << 16, copying.BASE), (5, copying.BASE), (64, 1)])
def test_passages_are_those_of_a_search_by_brute_force(monkeypatch, block, base):
    monkeypatch.setattr(copying, "BLOCK", block)
    monkeypatch.setattr(copying, "BASE", base)  # 1: all windows of the same letters have the same hash
    rng = random.Random(block)
    for n in range(60):
        sample, text = patchwork(rng, ["ab", "abcdefgh", "aé🦉\n", "aaaaab"][n % 4])
        length = rng.choice([1, 2, 5, 20])
        inside, (most, place) = search(sample, text, length)
        finder = CopyFinder([sample], build_corpus(text))
        assert finder.copied(length)[0].tolist() == inside
        found = finder.longest()
        assert (found.length, found.text_place) == (most, place)
        assert sample[found.place :][:most] == text[found.text_place :][:most]


def test_samples_are_searched_together_as_they_are_alone():
    rng = random.Random(1)
    text = build_corpus("".join(rng.choices("ab", k=300)))
    samples = ["".join(rng.choices("ab", k=n)) for n in (0, 40, 1, 0, 9, 200, 0)]
    together = CopyFinder(samples, text).copied(7)
    assert [part.tolist() for part in together] == [CopyFinder([s], text).copied(7)[0].tolist() for s in samples]
    assert any(part.any() for part in together)


def test_what_repeats_is_found_without_comparing_all_with_all():
    text = build_corpus("a" * 1_000_000)
    finder = CopyFinder(["b" + "a" * 100_000], text)
    assert finder.copied(50)[0].sum() == 100_000
    assert finder.longest() == Passage(100_000, 1, 0)


def test_memory_grows_with_the_sample_alone():
    ids = np.random.default_rng(0).integers(26, size=30_000_000, dtype=np.uint8)
    text = Corpus(ids, np.arange(97, 123, dtype=np.uint32), firsts=np.zeros(26, np.int64), corpus_hash="")
    sample = text.text(12_345_678, 12_345_978) + "..." + text.text(29_999_000)
    tracemalloc.start()
    finder = CopyFinder([sample], text)
    (copied,) = finder.copied()
    longest = finder.longest()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert copied.sum() == 300 + 1000
    assert longest == Passage(1000, 303, 29_999_000)
    assert peak < 16e6


def test_eval_says_what_is_copied_and_from_where(tmp_path):
    (tmp_path / "book.txt").write_text(LAMP)
    passage = LAMP[5000:5120]
    (tmp_path / "sample.txt").write_text("Zounds!\nQuoth " + passage + " ZZ")
    out, errors = charrnn("eval", "--copied", "book.txt", "sample.txt", cwd=tmp_path)
    assert errors == ""
    assert out.decode().split()[:2] == ["characters", "137"]
    figures = json.loads(charrnn("eval", "--copied", "book.txt", "sample.txt", "--json", cwd=tmp_path)[0])
    longest = figures.pop("longest_passage")
    assert figures == {
        "characters": 137,
        "copied_characters": longest["characters"],
        "copied_share": longest["characters"] / 137,
    }
    assert passage in longest["text"]
    line, column = longest["training_line"], longest["training_column"]
    assert LAMP.split("\n")[line - 1][column - 1 :].startswith(longest["text"].partition("\n")[0])
    assert longest["line"] == 2
    # From a pipe, as `charrnn sample ... | charrnn eval --copied TEXT`:
    piped = charrnn("eval", "--copied", "book.txt", "--json", cwd=tmp_path, text=(tmp_path / "sample.txt").read_text())[0]
    assert json.loads(piped) == figures | {"longest_passage": longest}


def test_eval_of_a_sample_that_shares_nothing_with_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("aaa")
    out = charrnn("eval", "--copied", "a.txt", "--json", cwd=tmp_path, text="bbb")[0]
    assert json.loads(out) == {"characters": 3, "copied_characters": 0, "copied_share": 0.0, "longest_passage": None}
    assert charrnn("eval", "--copied", "a.txt", cwd=tmp_path, text="bbb")[0].decode().split()[-3:] == [
        "longest",
        "passage",
        "0",
    ]
