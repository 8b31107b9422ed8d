"""Limits: memory for archives that expand and for models too large, disk space for the cache."""

import gzip
import os
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zstandard
from conftest import CORPORA, charrnn

from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader, model_to_json
from charrnn.network.config import Config
from charrnn.text import cache_folder, id_cache
from charrnn.text.reading import read_corpus
from charrnn.text.vocabulary import text_of

MB = 1000  # kB
UNPACKING = 110 * MB  # that an archive may take at most, whatever is in it
ALL = text_of(np.delete(np.arange(1, 0x110000), slice(0xD7FF, 0xDFFF)))  # the characters of Unicode
PEAK = "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]), file=sys.stderr)"  # of memory, in kB


def bombs(folder):
    """Write archives that expand to far more than their size. Returns: their paths."""
    blocks = b"\x02\0\x10a" * 1022 + b"\x03\0\x10a"  # each of 128 kB
    window = zstandard.ZstdCompressionParameters(window_log=26)
    noise = np.random.default_rng(0).integers(32, 127, 1 << 26, np.uint8).tobytes()
    texts = {
        "blocks.zst": b"\x28\xb5\x2f\xfd\0\x80" + blocks,
        "ones.gz": gzip.compress(b"1" * 150_000_000, 9),
        "alphabet.zst": zstandard.compress((ALL * 20).encode()),
        "window.zst": zstandard.ZstdCompressor(compression_params=window).compress(noise + b"end"),
        "frames.zst": zstandard.compress(b"a") * 100_000,
        "bytes.gz": gzip.compress(bytes(range(1, 128)) * 1_000_000, 1),
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in texts]


def peak(*command, cwd):
    """Run a command. Returns: its peak memory in kB, and what it printed."""
    env = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", *map(str, command)], cwd=cwd, env=env, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stderr.splitlines()[-1]), done.stdout.decode("utf-8", "replace")


READ = f"import sys; from charrnn.text.reading import read_corpus; print(len(read_corpus(sys.argv[1:]))); {PEAK}"
RUN = f"import sys\nfrom charrnn.cli import main\ntry:\n main()\nexcept SystemExit as end:\n {PEAK}\n assert not end.code"


def test_an_archive_takes_little_memory_whatever_it_unpacks_to(tmp_path):
    (tmp_path / "small.txt").write_text("small")
    usual, _ = peak(READ, tmp_path / "small.txt", cwd=tmp_path)
    for path in bombs(tmp_path):
        took, length = peak(READ, path, cwd=tmp_path)
        print(path.name, f"{path.stat().st_size:,} bytes, {int(length):,} characters, {(took - usual) / MB:.0f} MB")
        assert took - usual < UNPACKING, path.name
    took, _ = peak(READ, tmp_path / "alphabet.zst", cwd=tmp_path)  # from the cache
    assert took - usual < UNPACKING


def test_an_archive_that_needs_a_large_window_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "wide.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd\0\x88" + b"\x03\0\x10a")  # a window of 128 MB
    with pytest.raises(
        CharrnnError, match=r"wide\.zst needs too much memory to unpack, a window of more than 64 MB; unpack it first: zstd -d"
    ):
        read_corpus([path])


def bigram_model(path, vocabulary, embedding):
    """Write a model without recurrent layers in which each character is followed by the next one."""
    config = Config(len(vocabulary), num_layers=0, embedding_size=embedding)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in config.shapes().items()}
    checkpoint.write(path, tensors, model_to_json(ModelHeader(config=config, vocabulary=vocabulary, start=vocabulary[0])))
    return path.stat().st_size / 1000


@pytest.mark.parametrize(("size", "embedding"), [(40_000, 1), (200_000, 1)])
def test_a_model_takes_memory_in_proportion_to_its_file(tmp_path, size, embedding):
    vocabulary = ALL[:size]
    kilobytes = bigram_model(tmp_path / "m.safetensors", vocabulary, embedding)
    (tmp_path / "t.txt").write_bytes((vocabulary[-50:] * 2).encode())
    for command in ("sample -n 2 --count 24 -m m.safetensors", "eval t.txt --top 3 -m m.safetensors"):
        took, _ = peak(RUN, *command.split(), cwd=tmp_path)
        print(f"{command}: {kilobytes:.0f} kB on disk, {took / MB:.0f} MB")
        assert took < 20 * kilobytes + 200 * MB


def test_texts_side_by_side_are_as_many_as_memory_holds_and_say_what_they_said(book_run, monkeypatch, inside):
    arguments = ["sample", "-m", "book", "-n", 9, "--seed", 3, "--count", 7]
    whole, _ = inside(book_run, arguments, 0)
    monkeypatch.setattr("charrnn.inference.model.MAX_BATCH_NUMBERS", 5_000)
    assert inside(book_run, arguments, 0)[0] == whole


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder; every text counts as long."""
    monkeypatch.setattr(id_cache, "IN_MEMORY", 50)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "charrnn"


def test_the_cache_forgets_what_was_used_longest_ago(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder, "MAX_BYTES", 5_500)
    paths = []
    for k in range(4):
        (tmp_path / f"{k}.txt").write_text(str(k) * 1_500)
        paths.append(read_corpus([tmp_path / f"{k}.txt"]).path)
        os.utime(paths[-1], (0, 1_000_000 + k))
        if k == 1:
            read_corpus([tmp_path / "0.txt"])  # from the cache
    assert [path.exists() for path in paths] == [True, False, True, True]
    (tmp_path / "long.txt").write_text("long" * 2_000)
    last = read_corpus([tmp_path / "long.txt"]).path
    assert list(cache.iterdir()) == [last]  # whatever its size


def test_the_cache_is_shown_and_cleared(cache, tmp_path):
    env = {"XDG_CACHE_HOME": str(cache.parent)}
    assert charrnn("cache", cwd=tmp_path, env=env)[0] == f"0 files, 0 MB, in {cache}\n".encode()
    cache.mkdir(parents=True)
    for name in ("a.ids", "b.tmp", "other"):
        (cache / name).write_bytes(b"." * 600_000)
    shown = charrnn("cache", cwd=tmp_path, env=env)[0].decode()
    assert shown.startswith(f"2 files, 1 MB, in {cache}; at most ")
    assert "charrnn cache --clear" in shown
    assert charrnn("cache", "--clear", cwd=tmp_path, env=env)[0].decode() == f"removed 2 files, 1 MB, in {cache}\n"
    assert [path.name for path in cache.iterdir()] == ["other"]
    assert "20 GB" in charrnn("cache", "--help", cwd=tmp_path)[0].decode()


def test_what_is_no_file_in_the_cache_is_left_alone(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder, "MAX_BYTES", 0)
    cache.mkdir(parents=True)
    (cache / "folder.ids").mkdir()
    (cache / "gone.ids").symlink_to("nowhere")
    (cache / "old.ids").write_bytes(b"old")
    os.utime(cache / "old.ids", (0, 0))
    (tmp_path / "t.txt").write_text("some text, " * 1_000)
    path = read_corpus([tmp_path / "t.txt"]).path
    assert sorted(cache.iterdir()) == sorted([path, cache / "folder.ids"])
    env = {"XDG_CACHE_HOME": str(cache.parent)}
    assert charrnn("cache", cwd=tmp_path, env=env)[0].startswith(b"1 files, ")
    assert charrnn("cache", "--clear", cwd=tmp_path, env=env)[0].startswith(b"removed 1 files, ")
    assert list(cache.iterdir()) == [cache / "folder.ids"]


def test_ids_that_are_cut_under_a_command_are_one_line(cache, tmp_path):
    (tmp_path / "t.txt").write_text("some text, " * 1_000)
    corpus = read_corpus([tmp_path / "t.txt"])
    os.truncate(corpus.path, 500)
    with pytest.raises(CharrnnError, match="were truncated while they were read; run the command again"):
        corpus.text()


def test_a_pipe_in_the_place_of_a_file_of_ids_is_replaced(cache, tmp_path):
    (tmp_path / "t.txt").write_text("some text, " * 1_000)
    path = read_corpus([tmp_path / "t.txt"]).path
    path.unlink()
    os.mkfifo(path)
    assert "is rebuilt" in read_corpus([tmp_path / "t.txt"]).notes[0]
    assert path.is_file()


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("train pipe -o run", signal.SIGINT),
        ("eval pipe -m runs/book", signal.SIGHUP),
        ("eval long.txt -m runs/book", signal.SIGTERM),
    ],
)
def test_a_signal_gives_the_terminal_its_cursor_back_and_leaves_no_file(book_run, tmp_path, command, number):
    (tmp_path / "runs").symlink_to(book_run / "runs")
    (tmp_path / "long.txt").write_text((CORPORA / "the-lamp.txt").read_text() * 60)
    os.mkfifo(tmp_path / "pipe")
    ours, theirs = os.openpty()
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TERM": "xterm"}
    program = [sys.executable, "-m", "charrnn", *command.split()]
    process = subprocess.Popen(program, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    with open(tmp_path / "pipe" if "pipe" in command else os.devnull, "wb", buffering=0) as pipe:
        screen = b""
        while b"\x1b[?25l" not in screen:  # a bar is drawn after a second
            pipe.write(b"text" * (1 << 20))
            screen += read_screen(ours, 0.3)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    screen += read_screen(ours, 0.3)
    os.close(ours)
    assert screen.endswith(b"\x1b[?25h")
    assert b"Traceback" not in screen
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def read_screen(terminal, seconds):
    """The output to a terminal, until there is none for this many seconds."""
    read = b""
    while select.select([terminal], [], [], seconds)[0]:
        try:
            read += os.read(terminal, 1 << 16)
        except OSError:  # the last writer has gone
            break
        if len(read) > 1 << 12:
            break
    return read


def test_a_reading_that_a_signal_ends_leaves_nothing_in_the_cache(book_run, tmp_path):
    (tmp_path / "long.txt").write_bytes(b"a long text\n" * 10_000_000)
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "charrnn", "eval", "long.txt", "-m", str(book_run / "runs" / "book")], cwd=tmp_path, env=env
    )
    while not list(tmp_path.glob("cache/charrnn/*.tmp")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert list((tmp_path / "cache" / "charrnn").iterdir()) == []


# Limits of address space in kB, from where nothing starts to where all works.
SPACES = [30_000, 60_000, 300_000, 700_000, 900_000, 1_000_000, 1_100_000]
STARVING = [
    "cache",
    "--help",
    "info english",
    "sample -m english -n 5 --seed 1",
    "train t.txt --steps 2 --layers 2 --hidden-size 1024 -q --force -o run",
]


@pytest.mark.parametrize("command", STARVING)
def test_a_command_short_of_memory_works_or_says_so_in_one_line(command, tmp_path):
    (tmp_path / "t.txt").write_text("to be or not to be, " * 99)
    statuses = []
    for kilobytes in SPACES if "train" in command else SPACES[:3]:
        limited = f"ulimit -v {kilobytes}; exec {sys.executable} -m charrnn {command}"
        done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
        statuses.append(done.returncode)
        if done.returncode:
            assert (done.returncode, done.stdout) == (1, b"")
            assert re.fullmatch(rb"error: out of memory[^\n]*\n", done.stderr), done.stderr
    assert statuses == sorted(statuses, reverse=True)
    if command in ("cache", "--help"):
        assert statuses[1] == 0  # they need no NumPy
