"""The lessons of docs/lessons.md: what a recurrent network can learn, and a softmax layer alone can't."""

import doctest
import importlib
import math
import re
from collections import Counter
from itertools import pairwise

import pytest
import torch
from conftest import CORPORA, ROOT, options_of

from charrnn import train
from charrnn.text.vocabulary import Vocabulary
from charrnn.training.events import Validation
from charrnn.training.run import Run

LN2 = math.log(2)
PHRASE = "few owls own bows"  # 17 characters: 16 next ones; "w" is followed by a space, by "l", "n" and "s"


def learn(tmp_path, text, until=math.inf, layers=None, embedding=None, **options):
    """Train on all of `text`. Returns: the run, with the weights of its last step or of step `until`."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(text)
    asked = options_of(validation=0.0, num_layers=layers, embedding_size=embedding, **options)
    run = Run.create([corpus], asked, out=tmp_path / "run")
    list(run.events(asked, stop=lambda: run.step >= until))
    return run


@torch.no_grad()
def next_characters(run, text):
    """(mean loss in nats, number of characters of `text` that were the top guess), starting from the zero state."""
    ids = torch.from_numpy(run.dataset.vocabulary.encode(text)).long()[:, None]
    model = run.learner.model
    logits, _ = model(ids[:-1], model.initial_state(1))
    loss = torch.nn.functional.cross_entropy(logits[:, 0], ids[1:, 0]).item()
    return loss, int((logits[:, 0].argmax(1) == ids[1:, 0]).sum())


HIHELLO = dict(cell="lstm", layers=1, hidden_size=5, embedding=0, seq_length=6, learning_rate=0.1)


def test_five_units_learn_hihello_within_50_steps(tmp_path):
    run = learn(tmp_path, "hihello", steps=50, **HIHELLO)
    assert next_characters(run, "hihello")[1] == 6
    model = train(tmp_path / "corpus.txt", out=tmp_path / "again", validation=0.0, steps=50, **HIHELLO)
    assert "h" + model.sample("h", length=6, greedy=True) == "hihello"


def test_hihello_is_under_seven_tenths_of_a_nat_at_step_10(tmp_path):
    run = learn(tmp_path, "hihello", until=10, steps=50, **HIHELLO)
    assert run.step == 10
    assert next_characters(run, "hihello")[0] < 0.70


def test_a_phrase_is_learned_with_as_many_units_as_characters(tmp_path):
    run = learn(tmp_path, PHRASE, steps=50, layers=1, hidden_size=len(set(PHRASE)), embedding=0, learning_rate=0.1)
    assert next_characters(run, PHRASE)[1] == len(PHRASE) - 1


def test_softmax_alone_converges_to_the_bigram_entropy_and_no_further(tmp_path):
    run = learn(tmp_path, PHRASE, steps=400, layers=0, embedding=0, learning_rate=0.5)
    pairs, firsts = Counter(pairwise(PHRASE)), Counter(PHRASE[:-1])
    entropy = -sum(n * math.log(n / firsts[a]) for (a, _), n in pairs.items()) / (len(PHRASE) - 1)
    loss, right = next_characters(run, PHRASE)
    assert entropy > 0.2
    assert abs(loss - entropy) < 0.005
    assert right < len(PHRASE) - 1


@pytest.mark.parametrize(("cell", "steps"), [("lstm", 500), ("gru", 500), ("rnn", 400)])
def test_two_layers_learn_a_sentence_by_heart(tmp_path, cell, steps):
    text = (CORPORA / "if-you.txt").read_text()
    units = len(Vocabulary(text))
    sizes = dict(layers=2, hidden_size=units, embedding=0, seq_length=10, batch_size=4, learning_rate=0.03)
    bits = []
    model = train(
        CORPORA / "if-you.txt",
        out=tmp_path / "run",
        validation=0.0,
        cell=cell,
        steps=steps,
        watch=lambda event: bits.append(event.metrics.train_bits_per_character) if isinstance(event, Validation) else None,
        **sizes,
    )
    assert bits[-1] * LN2 < 0.23
    assert "if you" + model.sample("if you", length=len(text) - 6, greedy=True) == text


def test_a_sentence_starts_with_if_you_and_is_150_to_200_characters():
    text = (CORPORA / "if-you.txt").read_text().strip()
    assert text.startswith("if you")
    assert 150 <= len(text) <= 200


def test_the_lessons_python_gives_what_their_page_says():
    page = (ROOT / "docs" / "lessons.md").read_text()
    text = "\n".join(re.findall(r"^```python\n(>>> .*?)^```$", page, re.S | re.M))
    assert text.count(">>> ") > 15
    torch.manual_seed(0)
    lessons = doctest.DocTestParser().get_doctest(text, {}, "lessons", "docs/lessons.md", 0)
    said = []
    assert doctest.DocTestRunner().run(lessons, out=said.append).failed == 0, "".join(said)


def test_the_examples_of_docstrings_give_what_they_say():
    paths = [path for path in (ROOT / "charrnn").rglob("*.py") if path.stem != "__main__" and ">>> " in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.attempted for result in results) > 10
    assert not [name for name, result in zip(names, results, strict=True) if result.failed]
