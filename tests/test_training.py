"""Training runs: reproducible, resumable, fine-tuned from other models, keep the best model, end when they should."""

import contextlib
import dataclasses
import json
import math
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CORPORA, options_of

from charrnn import load, train
from charrnn.checkpoint import read, read_model, write
from charrnn.commands.train import _describe
from charrnn.errors import CharrnnError
from charrnn.headers import model_to_json
from charrnn.network.optimizer import Optimizer
from charrnn.options import Options, parse_duration
from charrnn.run_folder import MODEL, STATE, read_history
from charrnn.training import learner
from charrnn.training.data import validation_length
from charrnn.training.events import DivergedError, End, Setback
from charrnn.training.recipe import Facts, choose
from charrnn.training.run import Run
from charrnn.training.schedule import Schedule

SMALL = dict(layers=2, hidden_size=12, embedding=8, batch_size=4, seq_length=20, dropout=0.2)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text((CORPORA / "the-lamp.txt").read_text()[:6000])
    return path


def at(fraction):
    """A schedule at this step."""
    schedule = Schedule(steps=1)
    schedule.fraction = fraction
    schedule.step = 1
    return schedule


@pytest.fixture
def often(monkeypatch):
    """Make short runs validate twenty times, as long ones do."""
    monkeypatch.setattr("charrnn.training.schedule.VALIDATION_SHARE", 1e9)


def finish(run, options, stop=lambda: False):
    list(run.events(options, stop=stop))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_two_runs_with_one_seed_give_byte_identical_tensors(corpus, tmp_path, cell):
    for name in ("a", "b"):
        train(corpus, out=tmp_path / name, steps=40, cell=cell, validation=0.02, seed=3, **SMALL)
    a, b = (read(tmp_path / name / MODEL)[0] for name in ("a", "b"))
    assert a.keys() == b.keys()
    assert all(a[key].tobytes() == b[key].tobytes() for key in a)
    train(corpus, out=tmp_path / "c", steps=40, cell=cell, validation=0.02, seed=4, **SMALL)
    assert read(tmp_path / "c" / MODEL)[0]["softmax.weight"].tobytes() != a["softmax.weight"].tobytes()


@pytest.mark.parametrize("hidden_size", [12, 64])  # with Adam alone, and with Muon for the recurrent matrices
def test_a_run_stopped_and_resumed_ends_as_one_that_never_stopped(corpus, tmp_path, often, hidden_size):
    options = options_of(steps=40, **{**SMALL, "hidden_size": hidden_size})
    finish(Run.create([corpus], options, tmp_path / "whole"), options)
    stopped = Run.create([corpus], options, tmp_path / "parts")
    finish(stopped, options, stop=lambda: stopped.step >= 17)
    assert stopped.step == 17
    resumed = Run.resume(tmp_path / "parts", [])
    assert resumed.step == 17
    finish(resumed, options)
    for file in (STATE, MODEL):
        whole, parts = (read(tmp_path / name / file)[0] for name in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(whole[key].tobytes() == parts[key].tobytes() for key in whole)
    steps = [[metrics.step for metrics in read_history(tmp_path / name)] for name in ("whole", "parts")]
    assert steps == [list(range(2, 41, 2))] * 2


def test_muon_moves_every_gate_by_a_nearly_orthogonal_matrix():
    torch.manual_seed(0)
    H = 32
    weight = torch.nn.Parameter(torch.zeros(4 * H, H))
    weight.grad = torch.randn(4 * H, H)
    Optimizer([weight], []).step(1, 0.0, 0.5)
    for gate in weight.detach().split(H):
        singular = torch.linalg.svdvals(gate) / 0.5
        assert singular.max() < 1.3
        assert singular.median() > 0.5


def test_weight_decay_shrinks_the_matrices_of_muon_alone():
    matrix, vector = torch.full((8, 8), 2.0), torch.full((8,), 2.0)
    matrix.grad, vector.grad = torch.zeros(8, 8), torch.zeros(8)
    Optimizer([matrix], [vector]).step(1, 0.1, 0.5, decay=0.2)
    assert torch.allclose(matrix, torch.full((8, 8), 1.8))
    assert torch.equal(vector, torch.full((8,), 2.0))


def test_what_muon_does_not_move_is_moved_as_by_the_adam_of_torch():
    torch.manual_seed(0)
    mine, theirs = torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.zeros(5, 3))
    theirs.data.copy_(mine.data)
    ours, reference = Optimizer([], [mine]), torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99))
    for number in range(1, 8):
        mine.grad = torch.randn(5, 3)
        theirs.grad = mine.grad.clone()
        ours.step(number, 0.1, 0.4)
        reference.step()
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("hidden_size", [12, 48])  # with Adam alone; Muon, from 64 units on, does not drive them there
def test_the_cells_do_not_run_away_in_the_first_steps(corpus, tmp_path, hidden_size):
    run = Run.create([corpus], options_of(steps=200, layers=2, hidden_size=hidden_size), tmp_path / "run")
    for _ in range(20):
        run._learn(at(0.1))
    run.folder.unlock()
    assert all(cells.abs().mean() < 2 for _, cells in run.learner.carried)  # without a guess the second layer's are 20 to 40


@pytest.mark.parametrize(("most", "clipped"), [(1e-3, True), (1e3, False)])
def test_a_gradient_is_clipped_to_the_largest_norm_and_a_smaller_one_left_alone(corpus, tmp_path, monkeypatch, most, clipped):
    run = Run.create([corpus], options_of(steps=1, **SMALL), tmp_path / "run")
    norms = []

    def look(*_, **__):
        norms.append(torch.cat([p.grad.flatten() for p in run.learner.model.parameters()]).norm().item())

    monkeypatch.setattr(learner, "CLIP", most)
    monkeypatch.setattr(run.learner.optimizer, "step", look)
    run._learn(at(0.5))
    run.folder.unlock()
    assert norms[0] == pytest.approx(most) if clipped else 1e-3 < norms[0] < most


def test_a_processor_without_bfloat16_says_so_and_goes_on_in_float32_with_a_run_from_another(corpus, tmp_path, monkeypatch):
    options = options_of(steps=4, precision="bfloat16", **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr("charrnn.training.device.can_run_bfloat16", lambda cell, device: False)
        with pytest.raises(CharrnnError, match="--precision bfloat16: this processor can't run lstm cells in it"):
            Run.create([corpus], options, tmp_path / "refused")
    with monkeypatch.context() as patch:  # as if on a processor that has it
        patch.setattr("charrnn.training.device.can_run_bfloat16", lambda cell, device: True)
        patch.setattr("charrnn.training.learner.can_run_bfloat16", lambda cell, device: False)
        begun = Run.create([corpus], options, tmp_path / "run")
        finish(begun, options)
        resumed = Run.resume(tmp_path / "run", [])
    assert resumed.recipe.precision == "bfloat16"  # back on the other machine it goes on in it
    assert resumed.learner.dtype == torch.float32
    assert "continues in float32" in resumed.notes[0]
    finish(resumed, Options(steps=6))
    assert resumed.step == 6


def test_resuming_on_another_text_is_refused(corpus, tmp_path):
    train(corpus, out=tmp_path / "run", steps=3, **SMALL)
    other = tmp_path / "other.txt"
    other.write_text("quite another text " * 20)
    with pytest.raises(CharrnnError, match="not the one"):
        Run.resume(tmp_path / "run", [other])


def test_init_from_begins_with_the_weights_and_vocabulary_of_a_model(corpus, tmp_path):
    train(corpus, out=tmp_path / "first", steps=60, **SMALL)
    options = Options(steps=5)
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text()[:5400][::-1])  # of the same characters
    run = Run.create([other], options, tmp_path / "second", init_from=tmp_path / "first")
    tensors, header = read_model(tmp_path / "first" / MODEL)
    assert run.dataset.vocabulary.characters == header.vocabulary
    assert all((run.learner.model.state_dict()[name].numpy() == tensors[name]).all() for name in tensors)
    finish(run, options)
    assert load(tmp_path / "second").header.config.hidden_size == 12


def test_the_model_kept_is_the_best_by_validation(corpus, tmp_path, often):
    model = train(corpus, out=tmp_path / "run", steps=200, learning_rate=0.3, **{**SMALL, "dropout": 0.0})
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert set(history[0]) == {
        "step",
        "characters",
        "seconds",
        "epochs",
        "train_bits_per_character",
        "validation_bits_per_character",
        "learning_rate",
        "sample",
    }
    assert len(history) == 20
    best = min(history, key=lambda line: line["validation_bits_per_character"])
    assert model.header.training.metrics.step == best["step"]


def test_validation_text_is_never_trained_on(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("ab" * 450 + "Z" * 100)
    run = Run.create([path], Options(steps=1), tmp_path / "run")
    assert run.dataset.vocabulary.characters == "ab"
    assert len(run.dataset.ids) == 900
    assert (run.dataset.validation_ids == -1).all()


def test_a_file_can_be_the_validation_text(corpus, tmp_path):
    held_out = tmp_path / "held.txt"
    held_out.write_text("MARGERY:\nKeep it lit.\n" * 5)
    run = Run.create([corpus], Options(steps=1, validation=str(held_out)), tmp_path / "run")
    assert len(run.dataset.ids) == 6000
    assert len(run.dataset.validation_ids) == 110


@pytest.mark.alone
def test_a_run_for_a_time_ends_on_time_annealed_and_saved(corpus, tmp_path):
    options = options_of(seconds=4.0, **SMALL)
    started = time.monotonic()
    run = Run.create([corpus], options, tmp_path / "run")
    finish_events = list(run.events(options, started))
    assert abs(time.monotonic() - started - 4.0) < 2.0
    assert finish_events
    assert run.history[-1].learning_rate < 0.05 * run.recipe.learning_rate
    assert (tmp_path / "run" / STATE).exists()


@pytest.mark.parametrize(("each", "validations"), [(0.1, 20), (0.5, 20), (2.0, 6)])
def test_validations_take_a_twentieth_of_the_time_and_the_last_one_still_ends_in_it(
    corpus, tmp_path, monkeypatch, each, validations
):
    """With a clock that only steps (0.05 seconds each) and validations advance."""
    options = options_of(seconds=300.0, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    run.recipe = dataclasses.replace(run.recipe, max_epochs=0.0)
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    taken = []

    def learn(fraction):
        clock.now += 0.05
        run.counters.step += 1
        run.counters.characters += 80

    def validate(stop):
        clock.now += each
        taken.append(each)
        return 3.0 - 0.01 * len(taken)

    monkeypatch.setattr("charrnn.training.run.time", clock)
    monkeypatch.setattr(run, "_learn", learn)
    monkeypatch.setattr(run.learner, "validate", validate)
    list(run.events(options, 0.0))
    assert len(taken) == validations
    assert sum(taken) <= 0.05 * 300
    assert 300 - 0.6 <= clock.now <= 300 + 0.1


def test_a_run_for_no_time_at_all_still_leaves_a_model(corpus, tmp_path):
    options = options_of(seconds=1.0, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    list(run.events(options, started=time.monotonic() - 10))
    assert run.step == 1
    assert load(tmp_path / "run").sample(length=5)


def spoiled(run, options, times):
    """The events of a run whose weights are set to NaN after step 12, this many times."""
    left = [times]

    def spoil():
        if run.step == 12 and left[0] and run.learner.model.softmax.weight.isfinite().all():
            left[0] -= 1
            run.learner.model.softmax.weight.data.fill_(float("nan"))
        return False

    return run.events(options, stop=spoil)


def test_a_run_whose_weights_break_goes_on_from_its_saved_state_with_a_smaller_rate(corpus, tmp_path):
    options = options_of(steps=30, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    (setback,) = (event for event in spoiled(run, options, 1) if isinstance(event, Setback))
    assert setback.reached == 12
    assert setback.step < 12
    assert setback.learning_rate == pytest.approx(run.recipe.learning_rate / 4)
    assert run.step == 30
    assert [metrics.step for metrics in run.history] == sorted({metrics.step for metrics in run.history})
    assert all(np.isfinite(metrics.validation_bits_per_character) for metrics in run.history)
    resumed = Run.resume(tmp_path / "run", [])
    assert resumed.highest_rate == run.highest_rate == setback.learning_rate


def test_a_loss_that_diverges_in_the_last_validation_sets_the_run_back_too(corpus, tmp_path, monkeypatch):
    options = options_of(steps=30, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    validate = run.learner.validate
    left = [1]

    def diverge(stop):
        if run.step == 30 and left.pop(0) if left else False:
            return math.inf
        return validate(stop)

    monkeypatch.setattr(run.learner, "validate", diverge)
    events = list(run.events(options))
    assert [event.reached for event in events if isinstance(event, Setback)] == [30]
    assert isinstance(events[-1], End)
    assert run.step == 30
    assert run.history[-1].step == 30


def test_a_step_that_diverges_leaves_the_carried_states_as_they_were(corpus, tmp_path):
    run = Run.create([corpus], options_of(steps=30, **SMALL), tmp_path / "run")
    run.learner.step(run.batches[0], 1, learning_rate=0.01)
    before = [[part.clone() for part in layer] for layer in run.learner.carried]
    run.learner.model.softmax.weight.data.fill_(float("nan"))
    with pytest.raises(DivergedError):
        run.learner.step(run.batches[1], 2, learning_rate=0.01)
    for layer, saved in zip(run.learner.carried, before, strict=True):
        assert all(torch.equal(part, kept) for part, kept in zip(layer, saved, strict=True))


def test_what_is_held_out_by_default_is_what_is_scored(tmp_path):
    text = np.random.default_rng(0).choice(list("abcdefgh \n"), 3_000_000)
    (tmp_path / "t.txt").write_text("".join(text))
    sizes = dict(steps=1, layers=0)
    run = Run.create([tmp_path / "t.txt"], options_of(**sizes), tmp_path / "run")
    assert len(run.dataset.text.held_out) == pytest.approx(250_000, abs=1)
    assert len(run.dataset.validation_ids) == len(run.dataset.text.held_out)
    list(run.events(run.origin.options))
    again = Run.resume(tmp_path / "run")
    assert len(again.dataset.text.held_out) == len(run.dataset.text.held_out)
    asked = Run.create([tmp_path / "t.txt"], options_of(**sizes, validation=0.1), tmp_path / "asked")
    assert len(asked.dataset.text.held_out) == 300_000
    (line, _) = _describe(asked, asked.origin.options)
    assert "validates on 250,000 of 300,000 held out; " in line


def test_a_run_that_breaks_again_and_again_ends_with_an_error_and_its_last_good_model(corpus, tmp_path):
    options = options_of(steps=30, **SMALL)
    run = Run.create([corpus], options, tmp_path / "run")
    seen = []
    with pytest.raises(CharrnnError, match="diverged at step 12"):
        seen.extend(spoiled(run, options, 4))  # without what came before the error
    assert run.counters.setbacks == 3
    assert load(tmp_path / "run").sample(length=5)
    assert Run.resume(tmp_path / "run", []).step < 12


def test_a_learning_rate_beyond_all_reason_sets_the_run_back(corpus, tmp_path):
    options = options_of(steps=40, learning_rate=10.0, **{**SMALL, "hidden_size": 64})
    run = Run.create([corpus], options, tmp_path / "run")
    with contextlib.suppress(CharrnnError):
        list(run.events(options))
    assert run.counters.setbacks


def test_each_open_option_is_chosen_and_each_given_one_is_kept():
    for characters in (200, 50_000, 1_000_000, 50_000_000):
        for seconds in (10.0, 60.0, 300.0, 1800.0):
            recipe, _ = choose(Options(seconds=seconds), Facts(characters=characters, vocabulary_size=65))
            assert recipe.batch_size * recipe.seq_length < characters
    recipe, _ = choose(
        options_of(seconds=60.0, hidden_size=77, layers=3, dropout=0.4), Facts(characters=1_000_000, vocabulary_size=65)
    )
    assert (recipe.hidden_size, recipe.num_layers, recipe.dropout) == (77, 3, 0.4)


def test_what_is_read_often_is_kept_from_being_learned_by_heart_and_what_is_read_once_is_not():
    often, notes = choose(Options(seconds=1800.0), Facts(characters=50_000, vocabulary_size=65))
    assert min(often.dropout, often.recurrent_dropout, often.weight_decay) > 0
    assert often.epochs == often.max_epochs > 0
    assert notes == [f"stops after {often.max_epochs:g} epochs to avoid overfitting (change with --epochs)"]
    once, notes = choose(Options(seconds=10.0), Facts(characters=50_000_000, vocabulary_size=65))
    assert once.dropout == once.recurrent_dropout == once.weight_decay == 0
    assert not notes
    by_heart, notes = choose(Options(seconds=1800.0, validation=0.0), Facts(characters=50_000, vocabulary_size=65))
    assert by_heart.dropout == by_heart.recurrent_dropout == by_heart.weight_decay == by_heart.max_epochs == 0
    assert not notes
    assert not choose(Options(seconds=1800.0, dropout=0.0), Facts(characters=50_000, vocabulary_size=65))[0].recurrent_dropout


def test_a_small_text_ends_a_run_before_its_time_and_a_longer_time_goes_on(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((CORPORA / "the-lamp.txt").read_text()[:1500])
    options = options_of(seconds=60.0, hidden_size=8, layers=1)
    run = Run.create([text], options, tmp_path / "run")
    list(run.events(options))
    assert run.step == run.recipe.max_epochs * run.batches.per_epoch
    assert run.counters.seconds < 60
    assert run.history[-1].step == run.step  # it is annealed and validated at its end
    again = Run.resume(tmp_path / "run", [])
    list(again.events(again.origin.options))
    assert again.step == run.step
    longer = Options(seconds=run.counters.seconds + 2)
    list(Run.resume(tmp_path / "run", []).events(longer))
    more = Run.resume(tmp_path / "run", [])
    assert more.step > run.step
    assert not more.recipe.max_epochs


def test_a_tiny_text_is_learned_by_heart_and_the_run_ends_then(tmp_path):
    text = (CORPORA / "if-you.txt").read_text()
    (tmp_path / "text.txt").write_text(text)
    options = Options(seconds=60.0)
    run = Run.create([tmp_path / "text.txt"], options, tmp_path / "run")
    notes = run.notes
    assert "memorises" in notes[0]
    list(run.events(options))
    assert run.counters.seconds < 50
    prime = "if you plant an apple seed"  # long enough to forget the start character, which this text has only at its end
    assert load(tmp_path / "run").sample(prime, len(text) - len(prime), greedy=True) == text[len(prime) :]


def test_less_is_validated_where_the_vocabulary_is_large(tmp_path):
    characters = "".join(chr(0x4E00 + k) for k in range(5000))
    (tmp_path / "text.txt").write_text(characters * 60)
    run = Run.create([tmp_path / "text.txt"], options_of(steps=1, hidden_size=8, layers=1), tmp_path / "run")
    assert len(run.dataset.validation_ids) == 25_000
    assert [validation_length(size) for size in (65, 5_000, 50_000, 1_000_000)] == [250_000, 25_000, 20_000, 1_000]


@pytest.mark.parametrize(
    ("asked", "vocabulary_size"),
    [
        ({"hidden_size": 60_000}, 65),
        ({"layers": 0, "embedding": 0}, 1_100_000),
        ({"layers": 0, "embedding": 0}, 50_000),
        ({"layers": 1, "embedding": 0, "hidden_size": 512}, 1_100_000),
        ({"layers": 0, "batch_size": 64, "seq_length": 128}, 1_100_000),
    ],
)
def test_a_network_beyond_memory_is_refused_before_it_is_made(monkeypatch, asked, vocabulary_size):
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 24 << 18)
    with pytest.raises(CharrnnError, match=r"GiB of memory, and this machine has 24; use a smaller .* or --max-vocabulary"):
        choose(options_of(**asked), Facts(characters=5_000_000, vocabulary_size=vocabulary_size))


@pytest.mark.parametrize("records", [0, 100_000])
def test_batches_are_small_where_each_character_takes_a_million_logits(records):
    kind = "line" if records else None
    facts = Facts(characters=5_000_000, vocabulary_size=1_100_000, records=records)
    recipe, _ = choose(options_of(layers=0, steps=9, seq_length=50, records=kind), facts)
    assert recipe.batch_size * (facts.mean_length if records else recipe.seq_length) * facts.vocabulary_size < 2e8


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("0.5h", 1800),
        ("1d", 86400),
        ("5 minutes", 300),
        ("5 min", 300),
        ("1 Hour", 3600),
        ("1 hour, 30 minutes", 5400),
    ],
)
def test_lengths_of_time_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("damage", ["shape", "dtype", "nan", "missing", "vocabulary", "format"])
def test_a_model_file_that_contradicts_itself_is_refused(corpus, tmp_path, damage):
    train(corpus, out=tmp_path / "run", steps=2, **SMALL)
    tensors, header = read_model(tmp_path / "run" / MODEL)
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    if damage == "shape":
        tensors["softmax.bias"] = tensors["softmax.bias"][:-1]
    elif damage == "dtype":
        tensors["softmax.bias"] = tensors["softmax.bias"].astype(np.float64)
    elif damage == "nan":
        tensors["softmax.bias"][0] = np.nan
    elif damage == "missing":
        del tensors["softmax.bias"]
    elif damage == "vocabulary":
        header = dataclasses.replace(header, vocabulary=header.vocabulary[::-1])
    path = tmp_path / "bad.safetensors"
    write(path, tensors, model_to_json(header))
    if damage == "format":
        path.write_bytes(path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(CharrnnError, match=r"bad\.safetensors"):
        read_model(path)
