"""Fine-tuning: base models, files in half precision, and vocabularies that grow."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CORPORA, charrnn, options_of
from safetensors.numpy import load_file
from safetensors.torch import save_file

from charrnn import load, run_folder, train
from charrnn.checkpoint import read, read_model, write
from charrnn.commands.common import complete_model
from charrnn.errors import CharrnnError
from charrnn.headers import model_to_json
from charrnn.network.config import Config
from charrnn.options import Options
from charrnn.run_folder import BASES, MODEL, STATE, find_model, list_bases
from charrnn.training.recipe import Facts, choose
from charrnn.training.run import Run

SMALL = dict(layers=2, hidden_size=12, embedding=8, batch_size=4, seq_length=20)
LAMP = (CORPORA / "the-lamp.txt").read_text()


@pytest.fixture
def base(tmp_path):
    """A model whose vocabulary is lower-case letters, spaces and line breaks."""
    path = tmp_path / "base.txt"
    path.write_text("".join(c for c in LAMP.lower() if c.isascii() and (c.isalpha() or c in " \n"))[:6000])
    return train(path, out=tmp_path / "base", steps=30, **SMALL)


# A vocabulary that grows


@pytest.mark.parametrize("embedding", [8, 0])
@pytest.mark.parametrize("layers", [2, 0])
def test_characters_that_the_base_lacks_are_added_and_nothing_is_dropped(tmp_path, base, embedding, layers):
    base = train(tmp_path / "base.txt", out=tmp_path / "b", steps=9, **SMALL | dict(layers=layers, embedding=embedding))
    (tmp_path / "t.txt").write_text(LAMP[:6000])
    run = Run.create([tmp_path / "t.txt"], options_of(steps=3), tmp_path / "run", init_from=tmp_path / "b")
    added = sorted(set(LAMP[:5400]) - set(base.vocabulary.characters))
    assert f"added {len(added)} characters to the vocabulary of {tmp_path / 'b' / MODEL}" in " ".join(run.notes)
    assert set(run.dataset.vocabulary.characters) == set(LAMP[:5400]) | set(base.vocabulary.characters)
    assert len(run.dataset.ids) == 5400
    # A text of the base's own characters is read as the base reads it, but for what the new ones take of the probability.
    ids = torch.from_numpy(run.dataset.vocabulary.encode("the lamp")).long()[:, None]
    mine = torch.from_numpy(run.dataset.vocabulary.encode(base.vocabulary.characters)).long()
    logits = run.learner.model(ids, run.learner.model.initial_state(1))[0][:, 0, mine].detach()
    expected, _ = base.network.forward(base.vocabulary.encode("the lamp")[:, None], base.network.initial_state(1))
    np.testing.assert_allclose(logits.numpy(), expected[:, 0], atol=1e-4)
    list(run.events(run.origin.options))
    assert load(tmp_path / "run").unknown(LAMP[:5400]) == ""


def test_a_new_character_is_expected_about_as_often_as_it_comes(tmp_path, base):
    (tmp_path / "t.txt").write_text(("the lamp is lit and the boat is out " * 4 + "§§§§§§§§") * 60)
    run = Run.create([tmp_path / "t.txt"], options_of(steps=3), tmp_path / "run", init_from=tmp_path / "base")
    ids = torch.from_numpy(run.dataset.ids[0:2000]).long()[:, None]
    p = run.learner.model(ids, run.learner.model.initial_state(1))[0].softmax(-1).mean((0, 1)).detach()
    assert 0.01 < p[run.dataset.vocabulary.encode("§")[0]] < 0.2  # it is 0.053


def test_of_a_base_that_knows_little_of_the_text_the_layers_alone_are_taken(tmp_path, base):
    (tmp_path / "t.txt").write_text("αβγδ εζηθ\n" * 500)
    run = Run.create([tmp_path / "t.txt"], options_of(steps=3), tmp_path / "run", init_from=tmp_path / "base")
    weights = run.learner.model.state_dict()
    tensors, _ = read_model(tmp_path / "base" / MODEL)
    assert (weights["layers.1.weight_hh_l0"].numpy() == tensors["layers.1.weight_hh_l0"]).all()
    assert not weights["softmax.weight"].any()
    list(run.events(run.origin.options))


def test_fine_tuning_takes_a_small_rate_and_few_epochs_where_the_base_knows_the_text(tmp_path, base):
    sizes = Config(89, num_layers=2, hidden_size=384, embedding_size=32, residual=True)
    facts = Facts(characters=20_000, vocabulary_size=89, base=sizes)
    minute = Options(seconds=60.0)
    scratch, _ = choose(minute, replace(facts, base=None))
    tuned, notes = choose(minute, replace(facts, base_bits=2.4))
    assert tuned.learning_rate <= scratch.learning_rate / 5
    assert 0 < tuned.max_epochs < scratch.max_epochs
    assert 0 < tuned.dropout < scratch.dropout
    assert notes == [f"stops after {tuned.max_epochs:g} epochs to avoid overfitting (change with --epochs)"]
    longer, _ = choose(minute, replace(facts, base_bits=2.4, characters=5_000_000))
    stranger, _ = choose(minute, replace(facts, base_bits=3.5))
    assert tuned.learning_rate < stranger.learning_rate < scratch.learning_rate
    assert longer.learning_rate > tuned.learning_rate
    assert longer.dropout == longer.recurrent_dropout == longer.weight_decay == 0
    asked, _ = choose(Options(seconds=60.0, learning_rate=0.3, dropout=0.4), replace(facts, base_bits=2.4))
    assert (asked.learning_rate, asked.dropout) == (0.3, 0.4)
    by_heart, _ = choose(Options(seconds=60.0, validation=0.0), replace(facts, base_bits=2.4))
    assert by_heart.dropout == by_heart.max_epochs == 0


def test_a_base_that_has_few_characters_of_the_text_is_trained_as_from_scratch():
    base = Config(89, num_layers=2, hidden_size=256, embedding_size=32, residual=True)
    facts = Facts(characters=20_000, vocabulary_size=600, base=base)
    tuned, notes = choose(Options(seconds=60.0), facts)
    scratch, _ = choose(Options(seconds=60.0, num_layers=2, hidden_size=256), replace(facts, base=None))
    assert tuned == scratch
    assert "the model to fine-tune has few of this text's characters; only its recurrent layers are used" in notes


def test_in_a_short_time_only_the_first_layer_learns_a_text_that_is_strange_to_the_base():
    base = Config(89, num_layers=2, hidden_size=256, embedding_size=32, residual=True)  # at 40,000 / 3 characters per second
    program = Facts(characters=1_000_000, vocabulary_size=89, base=base, base_bits=5.0, speed=40_000)
    names = replace(program, characters=240_000, records=30_000)

    def layers(seconds, facts, asked=None, **changes):
        recipe, notes = choose(Options(seconds=seconds, num_layers=asked), replace(facts, **changes))
        said = "unlike the model's and the time is short: only the model's first layer is used (change with --layers)"
        assert (f"this text is {said}" in notes) == (recipe.num_layers == 1 < facts.base.num_layers)
        return recipe.num_layers

    assert [layers(seconds, program) for seconds in (10, 18, 20, 60)] == [1, 1, 2, 2]
    assert [layers(seconds, names) for seconds in (60, 70, 75, 120)] == [1, 1, 2, 2]  # 72 seconds are four epochs
    assert layers(60, names, records=12_000) == 2  # records of 20 characters
    assert [layers(seconds, names, characters=2_400_000, records=300_000) for seconds in (120, 130)] == [1, 2]
    assert [layers(10, program, base_bits=bits) for bits in (2.3, 3.9, 4.0, math.inf)] == [2, 2, 1, 1]
    assert layers(10, program, characters=30_000) == 2
    assert layers(10, program, asked=2) == 2
    scratch, _ = choose(Options(seconds=10.0, num_layers=1, hidden_size=256), replace(program, base=None, characters=70_000))
    assert choose(Options(seconds=10.0), replace(program, characters=70_000))[0].learning_rate == scratch.learning_rate
    assert layers(10, replace(program, base=replace(base, num_layers=1))) == 1
    assert layers(10, replace(program, base=replace(base, num_layers=0))) == 0
    assert choose(Options(epochs=1), names)[0].num_layers == 2
    assert "without --init-from" in " ".join(choose(Options(seconds=10.0), replace(program, base_bits=math.inf))[1])


def test_of_a_base_that_knows_little_of_the_text_the_first_layer_alone_can_be_taken(tmp_path, base):
    (tmp_path / "t.txt").write_text("αβγδ εζηθ\n" * 500)
    run = Run.create([tmp_path / "t.txt"], options_of(steps=2, num_layers=1), tmp_path / "run", init_from=tmp_path / "base")
    tensors, _ = read_model(tmp_path / "base" / MODEL)
    weights = run.learner.weights()
    assert "layers.1.weight_hh_l0" not in weights
    np.testing.assert_array_equal(weights["layers.0.weight_hh_l0"], tensors["layers.0.weight_hh_l0"])
    list(run.events(run.origin.options))
    resumed = Run.resume(tmp_path / "run")
    assert resumed.recipe.num_layers == 1
    list(resumed.events(options_of(steps=4)))


def test_fewer_layers_take_the_first_ones_of_the_base(tmp_path, base):
    run = Run.create([tmp_path / "base.txt"], options_of(steps=2, num_layers=1), tmp_path / "run", init_from=tmp_path / "base")
    tensors, _ = read_model(tmp_path / "base" / MODEL)
    weights = run.learner.weights()
    assert weights.keys() < tensors.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, tensors[name])
    list(run.events(run.origin.options))
    assert load(tmp_path / "run").header.config == replace(base.header.config, num_layers=1)
    with pytest.raises(CharrnnError, match="--layers 3: the model to fine-tune has 2; leave --layers out"):
        Run.create([tmp_path / "base.txt"], options_of(num_layers=3), tmp_path / "r", init_from=tmp_path / "base")
    with pytest.raises(CharrnnError, match="--layers 0: the model to fine-tune has 2; leave --layers out"):
        Run.create([tmp_path / "base.txt"], options_of(num_layers=0), tmp_path / "r", init_from=tmp_path / "base")


def test_the_learning_rate_of_fine_tuning_follows_from_what_the_base_makes_of_the_text(tmp_path, base):
    texts = {
        "known": (tmp_path / "base.txt").read_text(),
        "strange": "zyx wvu tsr\n" * 500,
        "greek": "αβγδ εζηθ\n" * 600,  # of which the base knows only line breaks and spaces
    }
    rates = []
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
        run = Run.create([tmp_path / f"{name}.txt"], options_of(steps=1), tmp_path / name, tmp_path / "base")
        assert run.dataset.is_known(base.vocabulary) == (name != "greek")
        rates.append(run.plan.facts.rate)
    assert rates[0] < rates[1] < rates[2] == 1


# Half precision


def half(path, dtype):
    """Rewrite the model at `path` in half precision."""
    tensors, header = read_model(path)
    if dtype == torch.float16:
        write(path, {name: tensor.astype(np.float16) for name, tensor in tensors.items()}, model_to_json(header))
    else:
        text = json.dumps(model_to_json(header) | {"format": 2, "version": "1"})
        save_file({n: torch.from_numpy(t).to(dtype) for n, t in tensors.items()}, path, metadata={"charrnn": text})


@pytest.mark.parametrize(("dtype", "close"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)], ids=str)
def test_files_of_half_precision_are_read_everywhere(tmp_path, base, dtype, close):
    path = tmp_path / "base" / MODEL
    before = path.stat().st_size
    bits = base.bits_per_character(LAMP[:3000].lower())
    half(path, dtype)
    assert path.stat().st_size < 0.75 * before
    tensors, header = read_model(path)
    assert header.format == 2
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, base_tensor(base, name, tensor), rtol=close, atol=close)
    assert load(path).bits_per_character(LAMP[:3000].lower()) == pytest.approx(bits, abs=close)
    out, _ = charrnn("sample", "-m", "base", "-n", 20, "--seed", 1, cwd=tmp_path)
    assert len(out.decode().rstrip("\n")) >= 19
    charrnn("train", "base.txt", "--init-from", "base", "--steps", 2, "-q", cwd=tmp_path)


def base_tensor(base, name, tensor):
    """A tensor as it was in the file, also of the softmax layer, which the engine stores as one matrix."""
    if name == "softmax.weight":
        return base.network.softmax[:, :-1]
    return base.network.softmax[:, -1] if name == "softmax.bias" else tensor


@pytest.mark.parametrize(("number", "said"), [(np.inf, "not finite"), (np.nan, "not finite")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_held_to_the_same_rules(tmp_path, base, dtype, number, said):
    path = tmp_path / "base" / MODEL
    half(path, dtype)
    if dtype == torch.float16:
        tensors, (_, header) = load_file(path), read_model(path)
        tensors["softmax.bias"][0] = number
        write(path, tensors, model_to_json(header))
    else:
        data = bytearray(path.read_bytes())
        data[-2:] = b"\xc0\x7f" if np.isnan(number) else b"\x80\x7f"
        path.write_bytes(data)
    with pytest.raises(CharrnnError, match=said):
        load(path)


def test_a_state_of_half_precision_goes_on(tmp_path, base):
    tensors, header = read(tmp_path / "base" / STATE)
    halved = {name: t.astype(np.float16) if name.startswith("model.") else t for name, t in tensors.items()}
    write(
        tmp_path / "base" / STATE, halved, {name: value for name, value in header.items() if name not in ("format", "version")}
    )
    options = options_of(steps=32)
    run = Run.resume(tmp_path / "base")
    list(run.events(options))
    assert run.step == 32


def test_a_file_of_float32_stays_one_of_format_1_that_older_versions_read(tmp_path, base):
    assert read(tmp_path / "base" / MODEL)[1]["format"] == read(tmp_path / "base" / STATE)[1]["format"] == 1


# Base models by name


def test_a_name_means_a_base_and_one_that_is_none_is_answered_with_those_that_there_are(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bases = tmp_path / "bases"
    bases.mkdir()
    monkeypatch.setattr(run_folder, "BASES", bases)
    assert find_model("latin") == Path("latin")  # without any base it is a path, which is told of when it is opened
    for name in ("greek", "french"):
        (bases / f"{name}.safetensors").write_bytes((tmp_path / "base" / MODEL).read_bytes())
    assert load("greek").name == "greek"
    assert "base" in load("base").name
    for name in ("latin", "Greek"):
        with pytest.raises(CharrnnError, match=f"{name} does not exist; the base models are: french, greek"):
            find_model(name)
    assert complete_model("f") == ["french"]
    assert complete_model("b") == []
    assert find_model("gone.safetensors").name == "gone.safetensors"  # a file that is not there is told of when it is opened


@pytest.fixture
def english():
    if "english" not in list_bases():
        pytest.skip("the package has no base model `english`")
    return load("english")


def test_the_base_model_writes_and_scores_english_without_any_training(tmp_path, english):
    assert english.name == "english"
    assert BASES.joinpath("english.safetensors").stat().st_size <= 6e6
    out, _ = charrnn("sample", "-m", "english", "-n", 200, "--seed", 1, "--prime", "The ", cwd=tmp_path)
    assert out.startswith(b"The ")
    assert english.bits_per_character(LAMP[:3000]) < 2.6
    information, _ = charrnn("info", "english", cwd=tmp_path)
    assert b"english" in information
    assert b"repeat" not in information  # the books are not in the package


def test_what_is_written_about_a_base_goes_to_the_current_folder(tmp_path, english):
    (tmp_path / "t.txt").write_text(LAMP[:3000])
    before = sorted(BASES.iterdir())
    charrnn("export", "english", "--to", "html", cwd=tmp_path)
    charrnn("report", "english", "t.txt", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"english.html", "report.html"}
    assert sorted(BASES.iterdir()) == before


def test_a_folder_of_the_same_name_comes_first(tmp_path, english, base, monkeypatch):
    (tmp_path / "base").rename(tmp_path / "english")
    monkeypatch.chdir(tmp_path)
    assert load("english").header.config.hidden_size == 12


def test_a_run_from_the_base_model_says_so_and_resumes(tmp_path, english):
    (tmp_path / "t.txt").write_text(LAMP[:4000])
    charrnn("train", "t.txt", "--init-from", "english", "--steps", 2, "-q", cwd=tmp_path)
    model = load(tmp_path / "runs" / "t")
    assert model.header.training.origin.init_from == "english"
    charrnn("train", "--resume", "-o", "runs/t", "--steps", 3, "-q", cwd=tmp_path)
    assert replace(load(tmp_path / "runs" / "t").header.training.metrics).step <= 3
