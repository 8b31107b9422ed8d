"""Distributed training: several ranks get the result of one process, survive the death of a rank, and print one error."""

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import zstandard
from conftest import CORPORA, charrnn

from charrnn import train
from charrnn.checkpoint import read
from charrnn.errors import CharrnnError
from charrnn.inference.blocks import TextBlocks
from charrnn.inference.score import score
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.network.optimizer import Optimizer
from charrnn.options import Options
from charrnn.run_folder import CORPUS, HISTORY, STATE
from charrnn.text.reading import read_corpus
from charrnn.text.records import find_records
from charrnn.text.vocabulary import Vocabulary
from charrnn.training import device, distributed
from charrnn.training.batches import PAD, RecordBatches, Windows
from charrnn.training.distributed import ALONE, Group
from charrnn.training.run import Run

SIZES = ("--layers", 2, "--hidden-size", 64, "--batch-size", 8, "--seq-length", 32, "--precision", "float32", "--dropout", 0)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text((CORPORA / "the-lamp.txt").read_text()[:40_000])
    return path


@pytest.fixture
def begin():
    """A function that starts a program, which is ended with the test."""
    started = []

    def start(command, cwd, **more):
        env = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | more
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=cwd, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ranks(begin):
    """A function that starts a command as two ranks, with the environment variables of torchrun."""

    def start(*arguments, cwd, second=(), second_cwd=None, **more):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            where = dict(MASTER_ADDR="localhost", MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE="2")
        places = [dict(RANK=str(rank), LOCAL_RANK=str(rank), **where, **more) for rank in range(2)]
        return [
            begin(("-m", "charrnn", *arguments), cwd, **places[0]),
            begin(("-m", "charrnn", *arguments, *second), second_cwd or cwd, **places[1]),
        ]

    return start


def end(processes, timeout=60):
    """The exit status of each rank, and the error lines of all."""
    errors = [process.communicate(timeout=timeout)[1] for process in processes]
    return [process.returncode for process in processes], "".join(errors)


def history(folder):
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def curve(folder):
    names = "step", "train_bits_per_character", "validation_bits_per_character"
    return np.array([[line[name] for name in names] for line in history(folder)])


def told(errors):
    """The lines after the message that PyTorch is being loaded."""
    return [line for line in errors.splitlines() if not line.startswith("loading PyTorch")]


def weights(folder):
    tensors, _ = read(folder / STATE)
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors) if name.startswith("model.")])


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def children(process):
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def parts(size):
    for rank in range(size):
        group = Group()
        group.rank, group.size, group.local_rank = rank, size, rank
        yield group


# The same result


@pytest.mark.long
def test_two_ranks_learn_as_one_process_does_and_either_goes_on_where_the_other_stopped(corpus, tmp_path, ranks):
    alone = dict(layers=2, hidden_size=64, batch_size=8, seq_length=32, precision="float32", dropout=0.0)
    both = ranks("train", corpus, "--steps", 100, *SIZES, "-o", "two", cwd=tmp_path)
    train(corpus, out=tmp_path / "one", steps=100, **alone)
    statuses, errors = end(both)
    assert statuses == [0, 0], errors
    assert errors.count("saved in two") == 1
    assert len(curve(tmp_path / "one")) == 20
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), atol=1e-4, rtol=0)
    np.testing.assert_allclose(weights(tmp_path / "two"), weights(tmp_path / "one"), atol=2e-3, rtol=0)

    from_one = ranks("train", "--resume", "--steps", 120, "-o", "one", cwd=tmp_path)
    run = Run.resume(tmp_path / "two", [])
    list(run.events(Options(steps=120)))
    statuses, errors = end(from_one)
    assert statuses == [0, 0], errors
    assert "saved with one process and continues with 2 ranks" in " ".join(errors.split())
    assert run.notes[0].startswith("the run was saved with 2 ranks and continues with one process")
    assert history(tmp_path / "one")[-1]["step"] == 120
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), atol=1e-4, rtol=0)
    assert read(tmp_path / "two" / STATE)[0].keys() < read(tmp_path / "one" / STATE)[0].keys()  # a generator more


def test_two_ranks_learn_lines_as_one_process_does(tmp_path, ranks):
    lines = CORPORA / "birds.txt"
    both = ranks("train", lines, "--by-line", "--steps", 30, *SIZES[:4], *SIZES[-4:], "-o", "two", cwd=tmp_path)
    train(lines, out=tmp_path / "one", records="line", steps=30, layers=2, hidden_size=64, precision="float32", dropout=0.0)
    statuses, errors = end(both)
    assert statuses == [0, 0], errors
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_windows_of_all_ranks_are_those_of_one(size):
    ids = np.arange(5_000, dtype=np.int32)
    whole, shares = Windows(ids, 7, 10, 0), [Windows(ids, 7, 10, 0, group) for group in parts(size)]
    for step in (0, 1, whole.per_epoch - 1, whole.per_epoch):
        inputs, targets, begins, moves_on, learned = whole[step]
        pieces = [share[step] for share in shares]
        np.testing.assert_array_equal(np.concatenate([piece[0] for piece in pieces], axis=1), inputs)
        np.testing.assert_array_equal(np.concatenate([piece[1] for piece in pieces], axis=1), targets)
        np.testing.assert_array_equal(np.concatenate([piece[2] for piece in pieces]), begins)
        assert all(piece[3:] == (moves_on, learned) for piece in pieces)


def test_the_records_of_all_ranks_are_those_of_one_and_a_rank_too_many_learns_nothing():
    ids = np.concatenate([np.full(n, n, np.int32) for n in (3, 5, 9, 4, 6, 7)])
    ids[np.cumsum([3, 5, 9, 4, 6, 7]) - 1] = 0
    text = find_records(ids, kind="line", line_break=0)
    whole = RecordBatches(text, 2, 100, 0)
    shares = [RecordBatches(text, 2, 100, 0, group) for group in parts(5)]
    for step in range(whole.per_epoch):
        _, targets, _, _, learned = whole[step]
        found = np.concatenate([share[step][1].ravel() for share in shares])
        assert sorted(found[found != PAD]) == sorted(targets[targets != PAD])
        assert all(share[step][4] == learned == np.count_nonzero(targets != PAD) for share in shares)


@pytest.mark.parametrize(("length", "unknown"), [(9_000, None), (500, None), (9_000, 3)])
def test_the_scores_of_all_ranks_add_up_to_that_of_the_text(length, unknown):
    rng = np.random.default_rng(0)
    table, ids = rng.normal(size=(6, 6)), rng.integers(-1 if unknown is None else 0, 6, length).astype(np.int32)

    vocabulary = Vocabulary("abcdef") if unknown is None else Vocabulary("abc\ufffd🦉🦊", unknown=True)  # its id is 3
    network = SimpleNamespace(
        initial_state=lambda streams: [(np.zeros((streams, 1)),)], forward=lambda inputs, state: (table[inputs], state)
    )
    known = ids[ids >= 0]

    def scored(group=ALONE):
        blocks = TextBlocks(known, 0, unknown=len(ids) - len(known) if group.rank == 0 else 0, part=group.part)
        return score(network, blocks, vocabulary)

    whole, shares = scored(), [scored(group) for group in parts(3)]
    for name in ("characters", "unknown_characters", "correct", "nats"):
        assert sum(getattr(share, name) for share in shares) == pytest.approx(getattr(whole, name))


# Death and silence


@pytest.mark.long
def test_torchrun_starts_the_ranks_anew_when_one_is_killed_and_the_run_ends(corpus, tmp_path, begin):
    elastic = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--max-restarts", 3)
    agent = begin((*elastic, "-m", "charrnn", "train", corpus, "--steps", 300, *SIZES, "-o", "run"), tmp_path)
    wait_until(lambda: (tmp_path / "run" / HISTORY).exists() and len(history(tmp_path / "run")) >= 3)
    os.kill(children(agent)[1], signal.SIGKILL)
    statuses, errors = end([agent])
    assert statuses == [0], errors
    assert errors.count("error: ") == 1
    assert "note: this job continues from step" in errors
    steps = [line["step"] for line in history(tmp_path / "run")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 300


@pytest.mark.long
def test_a_run_on_two_agents_goes_on_when_one_of_them_is_killed_and_another_comes(corpus, tmp_path, begin):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # The agents meet anew without the one that was killed as soon as they miss it, and a new one learns where.
    meeting = ("--rdzv-endpoint", f"localhost:{port}", "--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=2")
    elastic = ("-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", 3, "--rdzv-id", "job")
    command = (*elastic, "--rdzv-backend", "c10d", *meeting, "--local-addr", "localhost")
    command = (*command, "-m", "charrnn", "train", corpus, "--steps", 300, *SIZES, "-o", "run")
    env = dict(OMP_NUM_THREADS="1", CHARRNN_TIMEOUT="6", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    first = begin(command, tmp_path, **env)

    def met():
        with socket.socket() as caller:
            return caller.connect_ex(("localhost", port)) == 0

    wait_until(met)  # the first agent holds the meeting
    second = begin(command, tmp_path, **env)
    wait_until(lambda: (tmp_path / "run" / HISTORY).exists() and len(history(tmp_path / "run")) >= 3)
    for pid in [second.pid, *children(second)]:
        os.kill(pid, signal.SIGKILL)
    third = begin(command, tmp_path, **env)
    statuses, errors = end([first, third], timeout=90)
    assert statuses == [0, 0], errors
    steps = [line["step"] for line in history(tmp_path / "run")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 300


def test_a_rank_that_hangs_ends_the_run_with_one_line_when_its_time_is_over(corpus, tmp_path, ranks):
    first, second = ranks("train", corpus, "--steps", 100_000, *SIZES, "-o", "run", cwd=tmp_path, CHARRNN_TIMEOUT="4")
    wait_until((tmp_path / "run" / STATE).exists)
    second.send_signal(signal.SIGSTOP)
    statuses, errors = end([first])
    assert statuses == [1]
    (line,) = [line for line in errors.splitlines() if "error: " in line]
    assert "nothing was heard from another rank for 4 s" in line


def test_a_signal_to_one_rank_ends_all_of_them_saved(corpus, tmp_path, ranks):
    both = ranks("train", corpus, "--steps", 100_000, *SIZES, "-o", "run", cwd=tmp_path)
    wait_until(lambda: (tmp_path / "run" / STATE).exists())
    time.sleep(1)
    both[1].send_signal(signal.SIGTERM)
    statuses, errors = end(both)
    assert statuses == [143, 143], errors
    assert errors.count("interrupted after") == 1
    assert f"({read(tmp_path / 'run' / STATE)[1]['place']['step']:,} steps, " in errors


# What is wrong is said once, on all ranks


def test_ranks_that_differ_in_options_or_text_or_files_end_with_one_line(corpus, tmp_path, ranks):
    there = tmp_path / "there"
    there.mkdir()
    (there / corpus.name).write_text(corpus.read_text()[:-1] + "!")
    start = ("train", corpus.name, "--steps", 5)
    begun = {
        "the ranks differ in learning_rate: it is None on rank 0 and 0.5 on rank 1": ranks(
            *start, cwd=tmp_path, second=("--learning-rate", 0.5)
        ),
        "the ranks differ in the text: it is ": ranks(*start, cwd=tmp_path, second_cwd=there),
        "rank 1: missing.txt does not exist": ranks("train", "missing.txt", cwd=there, second_cwd=tmp_path),
    }
    (there / "missing.txt").write_text("abc" * 100)
    for expected, both in begun.items():
        statuses, errors = end(both)
        assert statuses == [2, 2], errors
        (line,) = told(errors)
        assert line.startswith(f"error: {expected}")


def test_fewer_streams_than_ranks_are_an_error_and_where_the_tool_chooses_each_has_one(corpus, tmp_path):
    group = list(parts(40))[1]
    with pytest.raises(CharrnnError, match="a batch of 39 can't be shared by 40 ranks"):
        Run.create([corpus], Options(steps=1, batch_size=39), tmp_path / "run", group=group)
    run = Run.create([corpus], Options(steps=1), tmp_path / "run", group=group)
    assert run.recipe.batch_size == 40


def test_ranks_that_average_longer_than_they_work_are_told_what_helps(corpus, tmp_path, monkeypatch):
    group = next(parts(2))
    run = Run.create([corpus], Options(steps=1, hidden_size=8), tmp_path / "run", group=group)
    for seconds, notes in ((0.0, 0), (60.0, 1)):
        monkeypatch.setattr(group, "averaging_seconds", lambda gradients, seconds=seconds: seconds)
        said = run.learner.averaging_notes((4, 2))
        assert len(said) == notes
    assert "a larger --batch-size" in said[0]


def test_a_place_that_is_none_is_an_error_of_one_line(corpus, tmp_path):
    def error(*command, **env):
        _, errors = charrnn(*command, cwd=tmp_path, env=env, status=env.pop("status", 2))
        (line,) = told(errors)
        return line

    start = ("train", corpus, "--steps", 1)
    assert "WORLD_SIZE is 2 but RANK is not set" in error(*start, WORLD_SIZE="2")
    where = dict(MASTER_ADDR="localhost", MASTER_PORT="1")
    assert "RANK 2 of WORLD_SIZE 2 is not a rank" in error(*start, RANK="2", WORLD_SIZE="2", **where)
    assert "RANK 0 of WORLD_SIZE two is not a rank" in error(*start, RANK="0", WORLD_SIZE="two", **where)
    assert "only `train` runs under torchrun" in error("sample", RANK="0", WORLD_SIZE="2", **where)
    charrnn("train", corpus, "--steps", 1, cwd=tmp_path, env=dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1"), status=2)


def test_a_rank_that_reaches_no_other_says_so_in_time(corpus, tmp_path):
    where = dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1", CHARRNN_TIMEOUT="1")
    _, errors = charrnn("train", corpus, "--steps", 1, cwd=tmp_path, env=where, status=1, real=True)
    (line,) = told(errors)  # and no backtrace of torch's
    assert line.startswith("error: rank 1 of 2 could not connect to the others at localhost:1 within 1 s")


def test_a_rank_whose_torchrun_is_killed_before_the_ranks_meet_ends_soon(monkeypatch):
    env = dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1", TORCHELASTIC_RUN_ID="none")
    for name, value in (env | dict(TORCHELASTIC_USE_AGENT_STORE="True", CHARRNN_TIMEOUT="60")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "AGENT_TIMEOUT", 3)
    monkeypatch.setattr(distributed, "AGENT", 0)  # another process than the parent of today
    said = []
    with pytest.raises(CharrnnError, match="could not connect to the others at localhost:1 within 3 s"):  # nobody was told
        distributed.join(said.append)
    assert said == ["torchrun was killed before its ranks were connected; start it again"]


def test_without_torchrun_nothing_of_its_engine_is_begun(corpus, tmp_path):
    options = Options(steps=2, hidden_size=8)
    run = Run.create([corpus], options, tmp_path / "run")
    list(run.events(options))
    assert run.group is distributed.ALONE
    assert not torch.distributed.is_initialized()


# Shards and archives


@pytest.fixture
def shards(tmp_path):
    text = (CORPORA / "the-lamp.txt").read_text()[:9_000]
    folder = tmp_path / "shards"
    folder.mkdir()
    first, second = (text.rindex("\n", 0, place) + 1 for place in (3_000, 6_000))  # a shard ends with a line
    (folder / "0.txt").write_text(text[:first])
    halves = [gzip.compress(part.encode()) for part in (text[first:4_000], text[4_000:second])]
    (folder / "1.txt.gz").write_bytes(b"".join(halves) + b"\0" * 100)
    compressor = zstandard.ZstdCompressor()
    (folder / "2.txt.zst").write_bytes(
        compressor.compress(text[second:7_000].encode()) + compressor.compress(text[7_000:].encode())
    )
    return folder, text


def test_shards_and_archives_are_read_as_one_text(shards):
    folder, text = shards
    corpus = read_corpus([folder])
    assert corpus.text() == text
    assert [facts.bytes for facts in corpus.files] == [path.stat().st_size for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("name", ["1.txt.gz", "2.txt.zst"])
@pytest.mark.parametrize("damage", ["is truncated", "is damaged"])
def test_a_broken_archive_is_named(shards, name, damage):
    path = shards[0] / name
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[:-20] if damage == "is truncated" else b"no archive" + data)
    with pytest.raises(CharrnnError, match=f"{name} {damage}"):
        read_corpus([shards[0]])


def test_zstd_without_its_library_is_one_line(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(CharrnnError, match=r"charrnn\[zstd\]"):
        read_corpus([shards[0]])


def test_long_archives_are_kept_and_told_from_their_bytes_as_they_are(shards, monkeypatch, tmp_path):
    folder, text = shards
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("charrnn.text.id_cache.IN_MEMORY", 1_000)
    first, again = read_corpus([folder]), read_corpus([folder])
    assert first.path == again.path is not None
    assert first.text() == again.text() == text
    assert first.files == again.files
    plain = tmp_path / "plain"
    plain.write_bytes((folder / "1.txt.gz").read_bytes())
    assert read_corpus([folder / "1.txt.gz"], "bytes").text() == gzip.decompress((folder / "1.txt.gz").read_bytes()).decode()
    assert len(read_corpus([plain], "bytes")) == plain.stat().st_size


def test_resuming_names_the_shard_that_has_changed(shards, tmp_path):
    folder, text = shards
    options = Options(steps=1, hidden_size=8)
    list(Run.create([folder], options, tmp_path / "run").events(options))
    assert len(json.loads((tmp_path / "run" / CORPUS).read_text())["files"]) == 3
    (folder / "1.txt.gz").write_bytes(gzip.compress(text[3_000:6_001].encode() + b"!"))
    with pytest.raises(CharrnnError, match=r"1\.txt\.gz has changed"):
        Run.resume(tmp_path / "run", [])


# GPUs, as far as they can be tried without one


def test_each_rank_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    groups = list(parts(3))
    assert [device.pick_device("auto", group) for group in groups[:2]] == ["cuda:0", "cuda:1"]
    assert device.pick_device("cuda") == "cuda"
    with pytest.raises(CharrnnError, match=r"more ranks than GPUs \(2\)"):
        device.pick_device("cuda", groups[2])


def test_a_step_of_learning_keeps_to_the_device_of_its_network(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which "meta" does not have
    model = CharRNN(Config(5, "lstm", 2, 64, 4)).to("meta")  # where whatever meets a tensor of another device fails
    optimizer = Optimizer([], list(model.parameters()))
    ids = torch.zeros(6, 3, dtype=torch.int64, device="meta")
    logits, state = model(ids, model.initial_state(3), model.draw_masks(3, 0.5, 0.5))
    logits.sum().backward()
    optimizer.step(1, 0.1, 0.1)
    assert {part.device.type for layer in state for part in layer} == {"meta"}
