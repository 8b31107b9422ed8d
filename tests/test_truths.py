"""Properties of scores and sampling that must hold for any network."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CORPORA, charrnn

from charrnn import load, train
from charrnn.errors import CharrnnError
from charrnn.inference.blocks import TextBlocks
from charrnn.inference.model import Model
from charrnn.inference.sampler import Sampler
from charrnn.inference.score import ESCAPE, UNICODE, score
from charrnn.text.vocabulary import Vocabulary


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_markov_source_is_learned_to_its_entropy_rate_and_never_below(tmp_path):
    rng = np.random.default_rng(5)
    S = 5
    table = rng.dirichlet(np.full(S, 0.4), size=(S, S))  # p(next | the two before)
    pair = np.zeros((S * S, S * S))
    for a in range(S):
        for b in range(S):
            for c in range(S):
                pair[a * S + b, b * S + c] += table[a, b, c]
    stationary = np.linalg.matrix_power(pair, 4000)[0].reshape(S, S)
    surprise = -np.log2(np.maximum(table, 1e-300))
    entropy = float((stationary[:, :, None] * table * surprise).sum())

    def draw(n):
        a, b, out = 0, 1, []
        cumulative = table.cumsum(2)
        for u in rng.random(n):
            a, b = b, min(int(np.searchsorted(cumulative[a, b], u)), S - 1)
            out.append("abcde"[b])
        return "".join(out)

    model = train(write(tmp_path / "source.txt", draw(120_000)), out=tmp_path / "run", steps=900, layers=1, hidden_size=40)
    fresh = draw(40_000)
    variance = float((stationary[:, :, None] * table * (surprise - entropy) ** 2).sum())
    sampling_error = 4 * math.sqrt(variance / len(fresh))
    got = model.bits_per_character(fresh)
    assert entropy - sampling_error < got < 1.03 * entropy + sampling_error


def test_a_constant_text_costs_next_to_nothing(tmp_path):
    model = train(write(tmp_path / "a.txt", "a" * 3000), out=tmp_path / "run", steps=5)
    assert model.bits_per_character("a" * 1000) < 0.01


def test_random_characters_cost_log2_of_their_number(tmp_path):
    letters = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 40_000))
    model = train(write(tmp_path / "r.txt", letters), out=tmp_path / "run", steps=60, layers=1, hidden_size=16)
    assert model.bits_per_character(letters[:20_000]) == pytest.approx(4.0, rel=0.01)


@pytest.fixture(scope="module", params=["english", "book", "gru", "rnn"])
def any_model(request, book_run, tmp_path_factory):
    """A trained model of each cell, and the base model."""
    if request.param in ("english", "book"):
        return load("english" if request.param == "english" else book_run / "runs" / "book")
    sizes = dict(cell=request.param, steps=80, hidden_size=48, progress=False)
    return train(CORPORA / "if-you.txt", out=tmp_path_factory.mktemp(request.param) / "run", **sizes)


def bits_in_float64(model, text):
    """The bits of each character in one pass, in float64 after the logits."""
    ids = model.vocabulary.encode_known(text)
    logits = np.concatenate([[[model.start]], ids[:-1, None]])
    logits = model.network.forward(logits, model.network.initial_state(1))[0][:, 0].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(ids)), ids]) / math.log(2)


@pytest.mark.parametrize("length", [4_096, 8_192, 10_105, 40_000])
def test_a_text_scored_in_parallel_is_within_half_a_thousandth_of_one_pass(any_model, length):
    known = set(any_model.vocabulary.characters)
    text = "".join(c for c in (CORPORA / "the-lamp.txt").read_text()[-length - 2_000 :] if c in known)[:length]
    bits = np.concatenate([piece.bits for piece in any_model.pieces(text)])
    assert bits == pytest.approx(bits_in_float64(any_model, text), abs=1e-4)
    assert any_model.bits_per_character(text) == pytest.approx(bits.mean(), abs=0.0005)


def test_unknown_characters_are_charged_an_escape_and_a_choice_among_unicode():
    def uniform(ids, state):
        return np.zeros((*ids.shape, 4), np.float32), state

    vocabulary = Vocabulary("abcd")
    network = SimpleNamespace(initial_state=lambda B: [], forward=uniform)

    def scored(text):
        ids = vocabulary.encode_known(text)
        return score(network, TextBlocks(ids, start=0, unknown=len(text) - len(ids)), vocabulary=vocabulary)

    assert scored("abcd" * 50).bits_per_character == pytest.approx(2.0, abs=1e-5)
    mixed = scored("ab?d")
    assert mixed.unknown_characters == 1
    assert mixed.nats == pytest.approx(3 * math.log(4) + math.log(UNICODE - 4) - math.log(ESCAPE), abs=1e-4)
    assert scored("??").bits_per_character == pytest.approx(40.085, abs=0.01)


def test_the_probabilities_of_all_characters_add_up_to_one():
    total = (1 - ESCAPE) + (UNICODE - 4) * ESCAPE / (UNICODE - 4)
    assert total == pytest.approx(1.0, abs=1e-12)


def test_held_out_figure_of_the_run_is_that_of_eval(book_run):
    history = [json.loads(line) for line in (book_run / "runs" / "book" / "history.jsonl").read_text().splitlines()]
    best = min(line["validation_bits_per_character"] for line in history)
    text = (book_run / "book.txt").read_text()
    held_out = text[len(text) - len(text) // 10 :]
    assert load(book_run / "runs" / "book").bits_per_character(held_out) == pytest.approx(best, abs=0.01)


LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03]))


def draws(sampler, n=20_000, logits=LOGITS):
    noise = sampler.noise(np.random.default_rng(1), (n, len(logits)))
    ids = np.empty(n, np.intp)
    logits = np.tile(logits.astype(np.float32), (n, 1))
    for process in sampler.processors:
        process(np.empty((0, n), np.intp), logits)
    sampler.draw(logits, noise, ids)
    return np.bincount(ids, minlength=logits.shape[1])


def test_at_temperature_one_the_frequencies_are_the_softmax():
    n = 20_000
    expected = np.exp(LOGITS) * n
    chi_squared = ((draws(Sampler(), n) - expected) ** 2 / expected).sum()
    assert chi_squared < 18.47  # 4 degrees of freedom, p = 0.001


def test_first_characters_of_a_model_follow_its_softmax(book_run):
    model = load(book_run / "runs" / "book")
    logits = model.network.initial_state(1).step([model.start])
    p = np.exp(logits[0] - logits[0].max())
    p /= p.sum()
    n = 4000
    first = next(model.generate(length=1, count=n, seed=3))
    seen = np.bincount(model.vocabulary.encode("".join(first)), minlength=len(p))
    common = p * n >= 5
    assert common.sum() > 5
    expected = p[common] * n
    degrees = int(common.sum()) - 1
    assert ((seen[common] - expected) ** 2 / expected).sum() < degrees + 4.5 * math.sqrt(2 * degrees)


def test_temperature_near_zero_is_greedy():
    assert draws(Sampler(temperature=0.001), 200).tolist() == [200, 0, 0, 0, 0]
    assert draws(Sampler(temperature=0), 200).tolist() == draws(Sampler(greedy=True), 200).tolist()
    assert draws(Sampler(temperature=1e-300), 20).tolist() == [20, 0, 0, 0, 0]
    assert draws(Sampler(temperature=1e-320, top_p=0.9), 20).tolist() == [20, 0, 0, 0, 0]


def test_an_endless_temperature_is_uniform():
    counts = draws(Sampler(temperature=1e300), 5000)
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 18.47  # 4 degrees of freedom, p = 0.001


def test_of_equally_likely_characters_top_k_keeps_the_first():
    assert (draws(Sampler(top_k=2), 1000, np.zeros(5)) > 0).tolist() == [True, True, False, False, False]
    assert draws(Sampler(top_k=9), 1000, np.zeros(5)).all()


@pytest.mark.parametrize(("sampler", "allowed"), [(Sampler(top_k=2), 2), (Sampler(top_p=0.7), 2), (Sampler(top_p=0.76), 3)])
def test_top_k_and_top_p_keep_to_their_set(sampler, allowed):
    shuffled = LOGITS[[3, 0, 4, 1, 2]]
    counts = draws(sampler, 5000, shuffled)
    assert set(np.flatnonzero(counts)) == set(np.argsort(-shuffled)[:allowed])


@pytest.mark.parametrize(
    "bad", [dict(temperature=-1), dict(temperature=math.nan), dict(top_k=-1), dict(top_p=0), dict(top_p=1.5)]
)
def test_a_sampler_refuses_what_makes_no_sense(bad):
    with pytest.raises(CharrnnError):
        Sampler(**bad)


def test_samples_repeat_with_a_seed_and_do_not_depend_on_how_many_there_are(book_run):
    model = load(book_run / "runs" / "book")

    def texts(count):
        return ["".join(column) for column in zip(*model.generate("NELL:\n", 60, seed=7, count=count), strict=True)]

    assert texts(3) == texts(3)
    assert texts(1)[0] == texts(3)[0] == model.sample("NELL:\n", length=60, seed=7)
    assert len(set(texts(3))) == 3


def test_a_model_has_a_repr_that_says_what_it_is(book_run):
    assert "1 x 48 lstm" in repr(load(book_run / "runs" / "book"))
    assert isinstance(load(book_run / "runs" / "book" / "model.safetensors"), Model)


def test_shakespeare_scores_alike_in_streams_and_in_one_pass_of_the_program(book_run, shakespeare):
    text = shakespeare.read_text()[:20_000]
    out, _ = charrnn("eval", "-", "--json", cwd=book_run, text=text)
    figures = json.loads(out)
    assert set(figures) == {
        "characters",
        "unknown_characters",
        "bits_per_character",
        "nats_per_character",
        "perplexity",
        "accuracy",
    }
    assert figures["characters"] == 20_000
    assert figures["nats_per_character"] == pytest.approx(figures["bits_per_character"] * math.log(2))
    assert figures["perplexity"] == pytest.approx(math.exp(figures["nats_per_character"]))
