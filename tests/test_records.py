"""Records: lines and paragraphs as sequences of their own, in batches, scores and samples."""

import json
import math
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CORPORA, DATA, charrnn

from charrnn import load, train
from charrnn.checkpoint import RECORD_HASHES, read, read_model, write
from charrnn.errors import CharrnnError
from charrnn.inference.blocks import RecordBlocks
from charrnn.inference.sampler import Sampler
from charrnn.inference.score import score
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.options import Options
from charrnn.run_folder import MODEL, STATE
from charrnn.text.records import SEPARATORS, find_records, hash_records, hold_out, join, split
from charrnn.text.vocabulary import Vocabulary
from charrnn.training.batches import PAD, RecordBatches
from charrnn.training.run import Run

SMALL = dict(layers=2, hidden_size=12, embedding=8, batch_size=16)
PEOPLE = "ann anna annabel bea beatrice cleo dora eve evelyn fay flo florence gil gus hal ida iris ivy jo june kay kit"
NAMES = PEOPLE.split(" ")


def decode(vocabulary, ids):
    return "".join(vocabulary.characters[i] for i in ids)


def options_of(**more):
    """Options with the sizes of SMALL."""
    return Options(num_layers=2, hidden_size=12, embedding_size=8, batch_size=16, **more)


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{name}{end}\n" for name in NAMES for end in ("", "a", "ette", "o", "us")))
    return path


@pytest.fixture(scope="module")
def names_run(tmp_path_factory):
    """A folder with `runs/names`: a small line-by-line model, trained by the real program."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    charrnn(
        *("train", "names.txt", "--by-line", "--steps", 150, "--hidden-size", 24, "--layers", 1, "--batch-size", 8, "-q"),
        *("--validation", 0, "--learning-rate", 0.02),
        cwd=folder,
    )
    return folder


def batch_of(texts, kind="line", batch_size=100, seq_length=100):
    """The record text made of `texts`, its vocabulary, and one batch of all records."""
    text = join(texts, kind)
    vocabulary = Vocabulary(text)
    ids = vocabulary.encode(text)
    records = find_records(ids, kind=kind, line_break=int(vocabulary.encode("\n")[0]))
    return vocabulary, RecordBatches(records, batch_size=batch_size, seq_length=seq_length, seed=0)


def network(vocabulary, cell="lstm", layers=2):
    torch.manual_seed(1)
    model = CharRNN(Config(len(vocabulary), cell, layers, 9, 5)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def loss_of(model, inputs, targets, reduction="mean"):
    x, y = (torch.from_numpy(part.astype(np.int64)) for part in (inputs, targets))
    logits, _ = model(x, model.initial_state(x.shape[1]))
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=PAD, reduction=reduction)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_logits_of_a_line_do_not_depend_on_what_it_is_batched_with(cell):
    vocabulary, records = batch_of(NAMES)
    model = network(vocabulary, cell)
    inputs, targets, begins, _, _ = records[0]
    assert begins.all()
    assert len({int((column != PAD).sum()) for column in targets.T}) > 3
    together, _ = loss_of(model, inputs, targets)
    for k, length in enumerate((targets != PAD).sum(axis=0)):
        alone, _ = loss_of(model, inputs[:length, k : k + 1], targets[:length, k : k + 1])
        torch.testing.assert_close(together[:length, k], alone[:, 0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gradients_of_a_batch_are_those_of_each_line_alone(cell):
    vocabulary, records = batch_of(NAMES)
    model = network(vocabulary, cell)
    inputs, targets, _, _, _ = records[0]
    together = torch.autograd.grad(loss_of(model, inputs, targets)[1], list(model.parameters()))
    sums = [torch.zeros_like(parameter) for parameter in model.parameters()]
    characters = 0
    for k, length in enumerate((targets != PAD).sum(axis=0)):
        loss = loss_of(model, inputs[:length, k : k + 1], targets[:length, k : k + 1], "sum")[1]
        for total, gradient in zip(sums, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total += gradient
        characters += int(length)
    for gradient, total in zip(together, sums, strict=True):
        torch.testing.assert_close(gradient, total / characters, rtol=1e-9, atol=1e-12)


def test_what_stands_past_the_end_of_a_line_is_unused():
    vocabulary, records = batch_of(NAMES)
    model = network(vocabulary)
    inputs, targets, _, _, _ = records[0]
    _, loss = loss_of(model, inputs, targets)
    other = inputs.copy()
    other[targets == PAD] = 3
    assert (other != inputs).any()
    assert loss_of(model, other, targets)[1].item() == loss.item()
    logits, _ = loss_of(model, inputs, targets)
    logits.retain_grad()
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(targets.astype(np.int64)).flatten(), ignore_index=PAD
    ).backward()
    assert (logits.grad[torch.from_numpy(targets == PAD)] == 0).all()


@pytest.mark.parametrize("kind", ["line", "paragraph"])
def test_each_epoch_reads_every_record_once_after_a_line_break_and_to_its_end(kind):
    texts = [name + ("\n" + name if kind == "paragraph" else "") for name in NAMES * 9]
    vocabulary, records = batch_of(texts, kind, batch_size=7)
    assert records.per_epoch > 10
    for epoch in range(2):
        read = []
        for step in range(records.per_epoch):
            inputs, targets, _, _, _ = records[epoch * records.per_epoch + step]
            for x, y in zip(inputs.T, targets.T, strict=True):
                length = int((y != PAD).sum())
                assert (y[length:] == PAD).all()
                text = decode(vocabulary, y[:length])
                assert decode(vocabulary, x[:length]) == "\n" + text[:-1]
                read.append(text.removesuffix(SEPARATORS[kind]))
        assert sorted(read) == sorted(texts)


def test_batches_follow_from_seed_and_epoch_alone():
    _, one = batch_of(NAMES * 9, batch_size=7)
    _, other = batch_of(NAMES * 9, batch_size=7)
    late = one.per_epoch * 3 + 2
    for step in range(late):
        one[step]
    assert (one[late][1] == other[late][1]).all()
    assert any(one[k][1].tolist() != one[k + one.per_epoch][1].tolist() for k in range(one.per_epoch))


def test_names_are_padded_by_less_than_15_percent():
    path = DATA / "names.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    _, records = batch_of(split(path.read_text(), "line")[0], batch_size=281)
    assert len(records.text) == 32_033
    assert records.padding() < 0.15
    steps = [records[k][1] for k in range(records.per_epoch)]
    assert records.padding() == pytest.approx(sum((y == PAD).sum() for y in steps) / sum(y.size for y in steps))
    assert max(y.size for y in steps) < 2 * 281 * records.lengths.mean()


def test_a_record_longer_than_the_limit_is_learned_up_to_it_and_its_end_is_not_taught():
    vocabulary, records = batch_of(["ab" * 40, "abc", "ba"], seq_length=30)
    _, targets, _, _, _ = records[0]
    assert records.cut == 1
    longest = targets.T[(targets != PAD).sum(axis=0).argmax()]
    assert decode(vocabulary, longest) == "ab" * 15


def test_lines_and_paragraphs_are_split_as_they_stand():
    assert split("a\n\n b \nc", "line") == (["a", " b ", "c"], ["skipped 1 of its 4 lines, which are empty"])
    assert split("a\r\nb\r\n", "line")[0] == ["a", "b"]
    assert split("\n\na\nb\n \t\n\n\nc\n\nd\n", "paragraph") == (["a\nb", "c", "d"], [])
    ids = Vocabulary("\nab").encode("a\n\na\nb\n\n\n\nab")
    records = find_records(ids, kind="paragraph", line_break=0)
    assert list(zip(records.starts.tolist(), records.stops.tolist(), strict=True)) == [(0, 3), (3, 8)]


def test_held_out_lines_are_whole_drawn_by_seed_and_never_in_the_training_text():
    texts = NAMES * 2 + [name + "o" for name in NAMES]
    training, held_out, dropped = hold_out(texts, 0.3, 5)
    assert len(training) + len(held_out) + dropped == len(texts)
    assert dropped
    assert held_out
    assert not set(training) & set(held_out)
    assert set(training) | set(held_out) == set(texts)
    assert hold_out(texts, 0.3, 5) == (training, held_out, dropped)
    assert hold_out(texts, 0.3, 6) != (training, held_out, dropped)


def test_lines_that_are_often_repeated_are_held_out_with_their_copies():
    texts = NAMES[:20] * 25
    training, held_out, dropped = hold_out(texts, 0.1, 5)
    assert sorted(training + held_out) == sorted(texts)
    assert set(training) == set(NAMES[:20]) - set(held_out)
    assert len(held_out) == 50
    assert len(set(held_out)) == 2
    assert dropped == 0
    assert hold_out(texts, 0.1, 5) == (training, held_out, dropped)
    assert set(hold_out(texts, 0.1, 6)[1]) != set(held_out)
    assert hold_out(["yes", "no"] * 50, 0.1, 5)[1:] == ([], 0)  # either is half of all
    mostly = ["yes"] * 900 + NAMES[:20] * 5  # the frequent one is left to be learned
    training, held_out, dropped = hold_out(mostly, 0.05, 5)
    assert "yes" not in held_out
    assert len(set(held_out)) == 10


def test_a_list_of_few_lines_says_why_nothing_is_held_out(tmp_path):
    (tmp_path / "t.txt").write_text("yes\nno\n" * 50)
    errors = charrnn("train", "t.txt", "--by-line", "--steps", 2, "--hidden-size", 8, cwd=tmp_path)[1]
    assert "note: the text has too few different lines for a validation set: " in errors


def test_a_run_learns_whole_lines_and_validates_on_others(names, tmp_path):
    run = Run.create([names], options_of(steps=1, records="line"), out=tmp_path / "run")
    data = run.dataset
    held_out = decode(data.vocabulary, data.validation_ids).split("\n")[:-1]
    training = decode(data.vocabulary, data.ids[0 : len(data.ids)]).split("\n")[:-1]
    lines = names.read_text().split("\n")[:-1]
    assert 5 <= len(held_out) <= len(lines) // 10
    assert not set(held_out) & set(training)
    assert set(held_out) | set(training) == set(lines)
    assert any("too" in note for note in run.notes) == (len(held_out) < len(lines) // 10)


def test_a_validation_file_is_freed_of_what_is_trained_on(names, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("anna\nzoe\n")
    run = Run.create([names], Options(steps=1, records="line", validation=str(other)), out=tmp_path / "run")
    assert len(run.dataset.validation_ids) == len("zoe\n")
    assert any("left 1 lines out" in note for note in run.notes)


@pytest.mark.parametrize("kind", ["line", "paragraph"])
def test_a_run_of_records_stopped_and_resumed_ends_as_one_that_never_stopped(names, tmp_path, kind):
    if kind == "paragraph":
        names.write_text(names.read_text().replace("a\n", "a\n\n"))
    options = options_of(steps=30, records=kind, dropout=0.3)
    list(Run.create([names], options, out=tmp_path / "whole").events(options))
    stopped = Run.create([names], options, out=tmp_path / "parts")
    list(stopped.events(options, stop=lambda: stopped.step >= 11))
    resumed = Run.resume(tmp_path / "parts")
    assert resumed.step == 11
    list(resumed.events(options))
    for name in (STATE, MODEL):
        whole, parts = (read(tmp_path / folder / name)[0] for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(whole[key].tobytes() == parts[key].tobytes() for key in whole)
    assert load(tmp_path / "whole").records == kind


def test_init_from_goes_on_with_the_records_of_the_model_or_with_others(names, tmp_path):
    train(names, out=tmp_path / "lines", steps=3, records="line", **SMALL)
    train(names, out=tmp_path / "stream", steps=3, **SMALL)
    names.write_text(names.read_text().replace("\n", "\n\n"))
    run = Run.create([names], Options(steps=2), out=tmp_path / "more", init_from=tmp_path / "lines")
    assert run.recipe.records == "line"
    list(run.events(run.origin.options))
    assert Run.resume(tmp_path / "more").recipe.records == "line"
    for kind, base in (("paragraph", "lines"), ("line", "stream")):
        out = tmp_path / f"{kind} from {base}"
        model = train(names, out=out, steps=2, records=kind, init_from=tmp_path / base)
        assert model.records == kind
        assert model.header.start == "\n"
        assert Run.resume(out).recipe.records == kind


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_line_scores_alike_alone_and_among_others_and_by_either_engine(names, tmp_path, cell):
    model = train(names, out=tmp_path / "run", steps=20, records="line", cell=cell, **SMALL)
    text = names.read_text() + "unknown ☃\n" + "long" * 70 + "\n"
    scored = model.score(text)
    lines = text.split("\n")[:-1]
    assert len(scored.each) == len(lines)
    assert scored.nats == pytest.approx(scored.each.sum())
    assert scored.characters == len(text)
    assert scored.unknown_characters == 2 + sum(c not in model.vocabulary.characters for c in "unknown" + "long" * 70)
    for k in (0, 7, len(lines) - 2, len(lines) - 1):
        assert model.score(lines[k] + "\n").nats == pytest.approx(scored.each[k], rel=1e-5)
    ids = model.vocabulary.encode(text)
    torch_model = CharRNN(model.header.config)
    tensors = read_model(tmp_path / "run" / MODEL)[0]
    torch_model.load_state_dict({n: torch.from_numpy(t) for n, t in tensors.items() if n != RECORD_HASHES})

    @torch.no_grad()
    def forward(ids, state):
        logits, state = torch_model(torch.from_numpy(ids.astype(np.int64)), state)
        return logits.numpy(), state

    network = SimpleNamespace(initial_state=torch_model.initial_state, forward=forward)
    blocks = RecordBlocks(find_records(ids, kind="line", line_break=model.start), model.vocabulary)
    theirs = score(network, blocks, vocabulary=model.vocabulary)
    np.testing.assert_allclose(theirs.each, scored.each, rtol=1e-4)
    for k in (0, 50):  # the naive way: character after character, from the zero state
        line = torch.from_numpy(model.vocabulary.encode("\n" + lines[k] + "\n").astype(np.int64))[:, None]
        logits = torch_model(line[:-1], torch_model.initial_state(1))[0].detach()
        logits[0, 0, model.start] = -math.inf  # no line is blank
        logits = logits.log_softmax(-1)
        assert -logits[:, 0].gather(1, line[1:]).sum().item() == pytest.approx(scored.each[k], rel=1e-4)


def test_eval_of_a_uniform_model_costs_each_character_of_a_line_and_its_end_alike():
    vocabulary = Vocabulary("\nabc")
    text = find_records(vocabulary.encode("ab\nabcabc\n"), kind="line", line_break=0)
    uniform = SimpleNamespace(
        initial_state=lambda B: [], forward=lambda ids, state: (np.zeros((*ids.shape, 4), np.float32), state)
    )
    scored = score(uniform, RecordBlocks(text, vocabulary), vocabulary=vocabulary)
    first = math.log2(3)  # of three characters, since no line begins with its end
    np.testing.assert_allclose(scored.each / math.log(2), [first + 4, first + 12], rtol=1e-4)
    assert scored.worst(1) == [(1, pytest.approx(first + 12, rel=1e-4))]


def test_no_blank_record_is_written_and_the_end_of_one_has_probability_zero(names_run):
    model = load(names_run / "runs" / "names")
    hot = Sampler(temperature=4.0)
    written = model.write([""] * 300 + ["e"] * 300, length=50, sampler=hot, seed=1)
    assert all(sample.text.strip() for sample in written[:300])
    assert any(not sample.text for sample in written[300:])  # "e" may end at once
    assert not model.is_novel("")
    assert not model.is_novel(" ")
    assert not model.is_novel(NAMES[0] + "\n")
    p = np.exp(model.network.initial_state(1).step([model.start])[0].astype(np.float64))
    p[model.start] = 0
    first = next(iter(model.pieces("anna\n"))).bits[0]
    assert first == pytest.approx(-math.log2(p[model.vocabulary.encode("a")[0]] / p.sum()), abs=1e-4)
    assert model.score("anna\n").nats == pytest.approx(next(iter(model.pieces("anna\n"))).bits.sum() * math.log(2), abs=1e-4)


def test_records_that_begin_with_spaces_or_unknown_characters_can_end_after_them():
    vocabulary = Vocabulary("\n ab")
    text = find_records(vocabulary.encode("  a\n☃\n ☃\nb\n"), kind="line", line_break=0)
    blocks = RecordBlocks(text, vocabulary)
    assert blocks.blank.tolist() == [3, 0, 1, 1]
    (block,) = blocks.cut(1000)
    assert not (block.blank & block.counts & (block.targets == 0)).any()


def test_the_program_samples_whole_lines(names_run):
    out, errors = charrnn("sample", "--count", 20, "--seed", 1, cwd=names_run)
    lines = out.decode().split("\n")
    assert len(lines) == 21
    assert lines[-1] == ""
    assert all(0 < len(line) < 30 for line in lines[:-1])
    assert errors == "model: runs/names/model.safetensors\n"
    assert charrnn("sample", "--count", 20, "--seed", 1, cwd=names_run)[0] == out
    first = charrnn("sample", "--seed", 1, cwd=names_run)[0]
    assert out.startswith(first)
    for piped in ({}, {"text": "ev\n"}):
        prime = [] if piped else ["--prime", "ev"]
        begun = charrnn("sample", "--count", 5, *prime, cwd=names_run, **piped)[0].decode().split()
        assert len(begun) == 5
        assert all(line.startswith("ev") for line in begun)
    assert len(charrnn("sample", "-n", 2, "--temperature", 99, cwd=names_run)[0]) <= 3


def test_novel_lines_are_not_in_the_text_and_the_dropped_are_counted(names_run):
    model = load(names_run / "runs" / "names")
    assert not any(model.is_novel(name) for name in NAMES)
    assert all(model.is_novel(name + "zz") for name in NAMES)
    out, errors = charrnn("sample", "--count", 30, "--novel", "--seed", 3, cwd=names_run)
    lines = out.decode().splitlines()
    assert len(lines) == 30
    assert not set(lines) & set(NAMES)

    def drawn(count, seed=3):
        """Draw until this many lines are novel."""
        lines = list(islice(model.write_records(seed=seed, together=count), 20 * count))
        return lines[: next((k for k in range(len(lines)) if sum(line not in NAMES for line in lines[:k]) == count), None)]

    assert lines == [line for line in drawn(30) if line not in NAMES]
    assert f"skipped {len(drawn(30)) - 30} lines that are in the training file" in errors
    assert len(drawn(30)) > 31
    once = next(seed for seed in range(100) if len(drawn(1, seed)) == 2)
    assert "skipped 1 line that is in the training file" in charrnn("sample", "--novel", "--seed", once, cwd=names_run)[1]
    # Greedily it writes one name, and that is in the text: nothing is left, which is said.
    greedy = charrnn("sample", "--greedy", cwd=names_run)[0].decode().strip()
    out, errors = charrnn("sample", "--greedy", "--novel", "--count", 2, cwd=names_run)
    assert greedy in NAMES
    assert out == b""
    assert "skipped 40 lines" in errors
    assert "warning: found 0 of 2 in 40 tries" in errors


def test_record_hashes_take_five_bytes_a_distinct_line():
    assert hash_records(["a", "b", "a"]).shape == (2, 5)
    hashes = [row.tobytes() for row in hash_records(NAMES)]
    assert hashes == sorted(hashes)


def test_eval_prints_the_lines_that_surprise_the_model_most(names_run):
    text = "anna\nkit\nqqqqq\n\neve\n"
    out, errors = charrnn("eval", "--worst", 2, "--json", cwd=names_run, text=text)
    figures = json.loads(out)
    assert figures["characters"] == len(text) - 1
    assert figures["lines"] == 4
    assert figures["bits_per_line"] * 4 == pytest.approx(figures["bits_per_character"] * figures["characters"])
    assert figures["worst"][0]["line"] == "qqqqq"
    assert figures["worst"][0]["bits"] > 5 * 40
    assert "skipped 1 of its 5 lines" in errors
    table = charrnn("eval", "--worst", 1, cwd=names_run, text=text)[0].decode()
    assert "bits per line" in table
    assert table.splitlines()[-1].endswith(" qqqqq")


def test_paragraphs_are_learned_and_written_one_by_one(tmp_path):
    (tmp_path / "talk.txt").write_text("".join(f"who is {n}?\nit is {n}.\n\n" for n in NAMES))
    charrnn(
        *("train", "talk.txt", "--by-paragraph", "--steps", 400, "--hidden-size", 32, "--layers", 1, "--batch-size", 8),
        *("--learning-rate", 0.02, "--validation", 0, "-q"),
        cwd=tmp_path,
    )
    out = charrnn("sample", "--count", 3, "-t", 0.3, "--seed", 1, cwd=tmp_path)[0].decode()
    assert out.endswith("\n")
    parts = out.removesuffix("\n").split("\n\n")
    assert len(parts) == 3
    assert all(part.startswith("who is ") and "\nit is " in part for part in parts)
    figures = json.loads(charrnn("eval", "talk.txt", "--json", cwd=tmp_path)[0])
    assert figures["paragraphs"] == len(NAMES)
    assert figures["characters"] == (tmp_path / "talk.txt").stat().st_size


def test_windows_line_ends_and_empty_lines_are_read_and_said(tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"anna\r\n\r\nbea\r\ncleo\r\n" * 20)
    _, errors = charrnn("train", "dos.txt", "--by-line", "--steps", 2, "--hidden-size", 8, "--validation", 0, cwd=tmp_path)
    assert "CRLF" in errors
    assert "skipped 20 of its 80 lines" in errors
    assert "\r" not in load(tmp_path / "runs/dos").vocabulary.characters


BAD = {
    "no line break": ("hello there", ["train", "t.txt", "--by-line"], "1 line; --by-line needs at least 2"),
    "all alike": ("one\n" * 9, ["train", "t.txt", "--by-line"], "9 lines, all of them the same"),
    "blank": ("\n \n", ["train", "t.txt", "--by-line"], "0 line"),
    "one paragraph": ("one\ntwo\n", ["train", "t.txt", "--by-paragraph"], "1 paragraph"),
    "both": ("a\nb\n", ["train", "t.txt", "--by-line", "--by-paragraph"], "can't be combined"),
    "rare line break": ("aaabbb\nbbaa\n", ["train", "t.txt", "--by-line", "--max-vocabulary", "2"], "line break"),
    "resumed otherwise": ("a\nb\n", ["train", "--resume", "--by-line", "-o", "runs/names"], "--resume keeps"),
    "until": ("", ["sample", "--until", "x", "-m", "runs/names"], "--until"),
    "prime of two lines": ("", ["sample", "-p", "ann\nbea", "-m", "runs/names"], "beginning of one line"),
    "negative worst": ("a\n", ["eval", "t.txt", "--worst", "-1", "-m", "runs/names"], "--worst"),
    "nothing to score": ("\n\n", ["eval", "t.txt", "-m", "runs/names"], "no lines"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_error_line(names_run, case):
    text, arguments, words = BAD[case]
    (names_run / "t.txt").write_text(text)
    out, errors = charrnn(*arguments, cwd=names_run, status=2)
    assert out == b""
    assert errors.splitlines()[-1].startswith("error: ")
    assert words in errors.splitlines()[-1]


def test_what_only_records_have_is_refused_of_a_model_of_one_text(book_run):
    _, errors = charrnn("eval", "book.txt", "--worst", 3, "-m", "runs/book", cwd=book_run, status=2)
    assert errors == "error: --worst needs a model of lines or paragraphs; runs/book/model.safetensors is not one\n"


@pytest.mark.parametrize("damage", ["missing", "shape", "kind", "start", "no kind"])
def test_a_model_of_records_that_contradicts_itself_is_refused(names_run, tmp_path, damage):
    tensors, header = read(names_run / "runs" / "names" / MODEL)
    if damage == "missing":
        del tensors[RECORD_HASHES]
    elif damage == "shape":
        tensors[RECORD_HASHES] = tensors[RECORD_HASHES][:, :4].copy()
    elif damage == "kind":
        header["records"] = "stanza"
    elif damage == "start":
        header["start"] = "a"
    else:
        del header["records"]
    write(tmp_path / "bad.safetensors", tensors, header)
    with pytest.raises(CharrnnError, match=r"bad\.safetensors"):
        read_model(tmp_path / "bad.safetensors")


def test_the_project_s_birds_are_lines_too(tmp_path):
    model = train(CORPORA / "birds.txt", out=tmp_path / "run", steps=5, records="line", hidden_size=16, layers=1)
    assert "\n" not in model.sample(seed=1)
