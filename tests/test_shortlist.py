"""Sampled softmax: its estimates, and that a network learns as well with it as without."""

import math

import numpy as np
import pytest
import torch
from conftest import options_of
from torch.nn import functional

from charrnn.checkpoint import read
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.run_folder import STATE
from charrnn.text.corpus import count_ids
from charrnn.text.vocabulary import Vocabulary
from charrnn.training import sampled_softmax
from charrnn.training.batches import PAD
from charrnn.training.run import Run
from charrnn.training.sampled_softmax import SAMPLE, SampledSoftmax


def text_of(frequent, rare, length, share, seed=0):
    """A text of `frequent` letters in a pattern, with a `share` of `rare` ones, each always followed by the same letter."""
    draw = np.random.default_rng(seed)
    codes = ord("A") + (np.arange(length) % 7 + draw.integers(0, frequent - 6, length))
    at = np.flatnonzero(draw.random(length) < share)
    codes[at] = 0x4E00 + draw.integers(0, rare, len(at))
    codes[at[at + 1 < length] + 1] = ord("!")
    codes[:rare] = 0x4E00 + np.arange(rare)  # each of them is in the vocabulary
    return "".join(map(chr, codes))


def of(text):
    vocabulary = Vocabulary(text)
    return SampledSoftmax.of(count_ids(vocabulary.encode(text), len(vocabulary)))


def test_a_small_vocabulary_and_one_without_rare_characters_have_none():
    draw = np.random.default_rng(0)
    assert of("".join(map(chr, 0x4E00 + draw.integers(0, 500, 100_000)))) is None
    assert of("".join(map(chr, 0x4E00 + draw.integers(0, 5_000, 400_000)))) is None
    assert of(text_of(60, 2_000, 3_000_000, 0)) is not None


def test_the_frequent_characters_are_the_fewest_that_leave_a_thousandth_of_the_text():
    counts = np.array([5_000, 990, 4_000, 6, 4] + [0] * 2_000)
    made = SampledSoftmax.of(counts)
    assert made is not None
    assert made.frequent.nonzero()[:, 0].tolist() == [0, 1, 2]
    assert made.width == 3 + SAMPLE


def test_candidates_are_the_frequent_ones_the_targets_and_a_sample_that_stands_for_the_rest():
    made = SampledSoftmax(np.arange(2_000) < 50)
    targets = torch.tensor([[3, 1_500, PAD], [1_999, 1_500, 0]])
    candidates, correction, places = made.draw(targets)
    assert len(candidates) == 52 + SAMPLE == len(set(candidates.tolist()))
    assert set(range(50)) | {1_500, 1_999} == set(candidates[:52].tolist())
    assert torch.where(targets == PAD, PAD, candidates[places]).equal(targets)
    assert correction[:52].eq(0).all()
    torch.testing.assert_close(correction[52:].exp().sum().item(), 2_000.0 - 52, rtol=1e-5, atol=0)


def test_where_the_rest_is_smaller_than_the_sample_nothing_is_estimated():
    made = SampledSoftmax(np.arange(600) < 400)
    targets = torch.randint(0, 600, (5, 4))
    logits = torch.randn(5, 4, 600)
    candidates, correction, places = made.draw(targets)
    assert len(candidates) == 600
    assert correction.eq(0).all()
    lost = functional.cross_entropy(logits[..., candidates].flatten(0, 1), places.flatten())
    torch.testing.assert_close(lost, functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_the_sum_of_exponentials_is_right_on_average():
    torch.manual_seed(0)
    logits = torch.randn(3_000)
    made, targets = SampledSoftmax(np.arange(3_000) < 40), torch.tensor([[7, 2_500]])
    estimates = []
    for _ in range(400):
        candidates, correction, _ = made.draw(targets)
        estimates.append((logits[candidates] + correction).exp().sum().item())
    assert abs(np.mean(estimates) / logits.exp().sum().item() - 1) < 4 * np.std(estimates) / np.mean(estimates) / 20
    assert np.std(estimates) > 0


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("embedding", [0, 8])
def test_logits_of_candidates_are_those_among_all_and_the_others_get_no_gradient(layers, embedding):
    torch.manual_seed(0)
    model = CharRNN(Config(30, "lstm", layers, 16, embedding))
    torch.nn.init.normal_(model.softmax.weight)
    ids, candidates = torch.randint(0, 30, (6, 3)), torch.tensor([2, 29, 11])
    everything, _ = model(ids, model.initial_state(3))
    some, _ = model(ids, model.initial_state(3), candidates=candidates)
    torch.testing.assert_close(some, everything[..., candidates])
    some.sum().backward()
    touched = model.softmax.weight.grad.abs().sum(1) > 0
    assert touched.nonzero()[:, 0].tolist() == [2, 11, 29]


def learned(text, out):
    options = options_of(steps=100, hidden_size=64, layers=1, validation=0.02)
    run = Run.create([text], options, out)
    list(run.events(options))
    return run


def test_a_network_learns_by_it_what_it_learns_without(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_text(text_of(20, 700, 1_000_000, 0.0002), encoding="utf-8")
    sampled = learned(text, tmp_path / "sampled")
    assert sampled.learner.softmax is not None
    monkeypatch.setattr(sampled_softmax, "RARE", 0.0)
    exact = learned(text, tmp_path / "exact")
    assert exact.learner.softmax is None
    ours, theirs = (run.history[-1].validation_bits_per_character for run in (sampled, exact))
    assert abs(ours - theirs) < 0.03 < math.log2(720) - ours


def test_a_run_whose_sample_is_drawn_resumes_to_the_very_weights(tmp_path):
    text = tmp_path / "text"
    text.write_text(text_of(20, 700, 1_000_000, 0.0002), encoding="utf-8")
    options = options_of(steps=8, hidden_size=16, layers=1, validation=0.002)
    whole = Run.create([text], options, tmp_path / "whole")
    list(whole.events(options))
    stopped = Run.create([text], options, tmp_path / "parts")
    list(stopped.events(options, stop=lambda: stopped.step >= 3))
    resumed = Run.resume(tmp_path / "parts", [])
    assert (resumed.step, resumed.learner.softmax is None) == (3, False)
    list(resumed.events(options))
    expected, found = (read(tmp_path / name / STATE)[0] for name in ("whole", "parts"))
    assert expected.keys() == found.keys()
    assert all(expected[key].tobytes() == found[key].tobytes() for key in expected)
