"""Threads: weights don't depend on their number, which follows the cores; the user's process is left unchanged."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CORPORA, ROOT, options_of

from charrnn.__main__ import count_free_cores
from charrnn.checkpoint import read, read_state
from charrnn.network.char_rnn import CharRNN
from charrnn.network.config import Config
from charrnn.options import Options
from charrnn.run_folder import STATE
from charrnn.training import device, threads
from charrnn.training.batches import PAD
from charrnn.training.events import Replan
from charrnn.training.recipe import Facts, choose, count_shards
from charrnn.training.run import Run
from charrnn.training.shards import Shard, backpropagate
from charrnn.training.threads import Threads, choose_threads, count_cores

SHARDED = dict(layers=2, hidden_size=128, embedding=8, batch_size=8, seq_length=40, dropout=0.2, steps=6)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text((CORPORA / "the-lamp.txt").read_text()[:20_000])
    return path


def finish(run, options, stop=lambda: False):
    list(run.events(options, stop=stop))


def same(a, b):
    a, b = (read(folder / STATE)[0] for folder in (a, b))
    return a.keys() == b.keys() and all(a[key].tobytes() == b[key].tobytes() for key in a)


KINDS = [
    dict(cell="lstm"),
    dict(cell="gru", validation=0.02),  # without a fused kernel, long texts take long to score
    dict(cell="rnn", hidden_size=256, validation=0.02),
    dict(records="line"),
    dict(layers=1, hidden_size=192, embedding=0),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_moments_and_scores_are_the_same_bytes_on_any_number_of_threads(corpus, tmp_path, kind):
    for count in (1, 2, 3):
        options = options_of(**SHARDED | kind, threads=count)
        begun = Run.create([corpus], options, tmp_path / str(count))
        assert begun.recipe.shards == 2
        assert begun.machine.threads.count == count
        finish(begun, options)
    assert same(tmp_path / "1", tmp_path / "2")
    assert same(tmp_path / "1", tmp_path / "3")
    scores = [read_state(tmp_path / str(count) / STATE)[1].history[-1].validation_bits_per_character for count in (1, 2, 3)]
    assert scores[0] == scores[1] == scores[2]


SETTINGS = {  # of processes: environment, and whether only one core may be used
    "two threads": ({"OMP_NUM_THREADS": "2"}, False),
    "one core": ({}, True),
    "OMP 1, as torchrun sets it": ({"OMP_NUM_THREADS": "1"}, False),
    "OMP 4": ({"OMP_NUM_THREADS": "4"}, False),
    "MKL 1": ({"MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, False),
}
TRAIN = """
import sys
from charrnn import train
from charrnn.training.run import Run
from charrnn.options import Options
sizes = dict(hidden_size=72, batch_size=4, seq_length=20, steps=3, progress=False)
for cell in ("lstm", "gru", "rnn"):
    model = train("corpus.txt", cell=cell, layers=2, out=f"{sys.argv[1]}/{cell}", **sizes)
train("corpus.txt", init_from=model, out=f"{sys.argv[1]}/tuned", steps=3, batch_size=4, seq_length=20, progress=False)
options = Options(steps=3, hidden_size=72, batch_size=4, seq_length=20)
run = Run.create(["corpus.txt"], options, out=f"{sys.argv[1]}/killed")
run.save()  # and the process is killed
"""


def test_weights_are_the_same_bytes_whatever_limits_the_threads_of_the_process(corpus, tmp_path):
    for name, (env, one_core) in SETTINGS.items():
        clean = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        subprocess.run(
            [sys.executable, "-c", TRAIN, name],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": str(ROOT), **env},
            preexec_fn=(lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})) if one_core else None,
            check=True,
            timeout=120,
        )
    for name in SETTINGS:
        for run in ("lstm", "gru", "rnn", "tuned", "killed"):
            assert same(tmp_path / "two threads" / run, tmp_path / name / run), (name, run)


def test_a_run_saved_on_one_thread_goes_on_with_two_as_if_it_had_never_changed(corpus, tmp_path):
    options = options_of(**SHARDED, threads=1)
    finish(Run.create([corpus], options, tmp_path / "whole"), options)
    stopped = Run.create([corpus], options, tmp_path / "parts")
    finish(stopped, options, stop=lambda: stopped.step >= 3)
    resumed = Run.resume(tmp_path / "parts", threads=2)
    assert resumed.step == 3
    assert resumed.machine.threads.count == 2
    finish(resumed, options)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_the_state_of_an_earlier_version_goes_on_in_the_shards_of_its_sizes(corpus, tmp_path):
    options = options_of(**SHARDED)
    begun = Run.create([corpus], options, tmp_path / "run")
    begun.recipe = replace(begun.recipe, shards=0)  # as its files say it, which have no such key
    finish(begun, options, stop=lambda: begun.step >= 2)
    resumed = Run.resume(tmp_path / "run")
    assert resumed.step == 2
    assert resumed.learner.shards == 2
    finish(resumed, options)


def test_the_gradients_of_shards_add_up_to_that_of_the_batch():
    torch.manual_seed(1)
    model = CharRNN(Config(7, "lstm", 2, 16, 4)).double()
    torch.nn.init.normal_(model.softmax.weight)
    x, y = torch.randint(7, (9, 5)), torch.randint(7, (9, 5))
    y[6:, 2:] = PAD
    state = [tuple(torch.randn_like(part) for part in layer) for layer in model.initial_state(5)]
    whole = Shard(inputs=x, targets=y, state=state, masks=model.draw_masks(5, 0.3, 0.2))
    learn = lambda shard: backpropagate(model, list(model.parameters()), 0.01, torch.float64, shard)  # noqa: E731
    expected = learn(whole)
    for count, sizes in ((2, [2, 3]), (4, [1, 1, 1, 2]), (8, [1] * 5)):
        shards = whole.cut(count)
        assert [shard.inputs.shape[1] for shard in shards] == sizes
        parts = [learn(shard) for shard in shards]
        for k, gradient in enumerate(expected.gradients):
            torch.testing.assert_close(sum(part.gradients[k] for part in parts), gradient)
        torch.testing.assert_close(sum(part.loss for part in parts), expected.loss)
        torch.testing.assert_close(torch.cat([part.state[1][0] for part in parts]), expected.state[1][0])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_each_gradient_has_memory_of_its_own_since_others_are_added_in_place(cell):
    model = CharRNN(Config(7, cell, 2, 128, 8))
    x = torch.randint(7, (9, 4))
    shard = Shard(inputs=x, targets=x, state=model.initial_state(4), masks=model.draw_masks(4, 0.3, 0.2))
    gradients = backpropagate(model, list(model.parameters()), 0.01, torch.float32, shard).gradients
    assert len({gradient.untyped_storage().data_ptr() for gradient in gradients}) == len(gradients)


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [
        (dict(hidden_size=5, num_layers=1, batch_size=32, seq_length=32), 1),  # the threads would cost more than they give
        (dict(hidden_size=512, num_layers=2, batch_size=1, seq_length=64), 1),  # nothing to cut
        (dict(hidden_size=192, num_layers=1, batch_size=32, seq_length=32), 2),  # the ten-second network
        (dict(hidden_size=256, num_layers=2, batch_size=32, seq_length=64), 2),  # the one-minute network
        (dict(hidden_size=384, num_layers=2, batch_size=64, seq_length=64), 4),
        (dict(hidden_size=512, num_layers=2, batch_size=256, seq_length=64), 16),
    ],
)
def test_shards_follow_from_the_sizes_alone(sizes, shards):
    recipe, _ = choose(Options(steps=10, **sizes), Facts(characters=10_000_000, vocabulary_size=65))
    assert recipe.shards == count_shards(recipe, recipe.seq_length) == shards


def test_a_machine_of_many_cores_takes_the_shards_that_are_quickest_there(corpus, tmp_path, monkeypatch):
    speeds = {2: 1e5, 4: 1.8e5, 8: 3e5, 16: 2e5}
    asked = []

    def measure(machine, precision, logits, shards, batch_size):
        assert batch_size == 32
        asked.append(shards)
        return speeds[shards]

    monkeypatch.setattr(device, "measure_speed", measure)
    run = Run.create([corpus], Options(seconds=60.0, threads=12, batch_size=32, hidden_size=256), tmp_path / "run")
    assert asked == [2, 4, 8]
    assert run.recipe.shards == 8
    assert run.plan.facts.speed == 3e5
    run.folder.unlock()


@pytest.mark.parametrize(("where", "shape"), [("cpu", (48, 32)), ("meta", (48, 200))])
def test_a_gpu_is_measured_with_the_batch_size_of_the_run(monkeypatch, where, shape):
    asked = []

    def measure(model, shape, **_):
        asked.append(shape)
        return [1.0] * 5

    monkeypatch.setattr(device, "measure_window", measure)
    speed = device.measure_speed(device.Machine(where), "float32", logits=60, batch_size=200)
    assert asked == [shape]
    assert speed == shape[0] * shape[1]
    assert device.pick_precision("auto", cell="lstm", device="cuda") == "float32"


def test_threads_do_each_item_once_in_order_with_kernels_of_one_thread_and_give_torch_back_its_own(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    meet = threading.Barrier(2, timeout=30)

    def work(item):
        if item < 2:
            meet.wait()  # two threads are at work at once
        return item, torch.get_num_threads(), threading.get_ident()

    with Threads(2) as pool:
        found = pool.map(work, range(6))
        assert [item for item, _, _ in found] == list(range(6))
        assert {kernels for _, kernels, _ in found} == {1}
        assert len({ident for _, _, ident in found}) == 2
    assert torch.get_num_threads() == 3
    assert pool.map(lambda item: threading.get_ident(), range(3)) == [threading.get_ident()] * 3
    with pytest.raises(KeyError), Threads(2) as pool:
        pool.map({0: 1}.__getitem__, range(4))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_threads_still_work_after_a_measurement_in_the_middle_of_a_run():
    threads = Threads(2)
    both = threading.Barrier(2, timeout=20)  # which one thread alone never passes
    with threads:
        with threads:
            pass
        assert torch.get_num_threads() == 1
        assert sorted(threads.map(lambda _: both.wait(), [0, 1])) == [0, 1]
    assert threads.map(lambda item: item, [0, 1]) == [0, 1]


def test_threads_follow_what_is_asked_and_the_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "count_cores", lambda: 6)
    assert choose_threads(3) == 3
    assert choose_threads(None) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_threads(None) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose_threads(None) == 2
    assert choose_threads(5) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert choose_threads(None) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinities")
def test_taskset_is_respected(monkeypatch):
    monkeypatch.setattr(threads, "_quotas", lambda: iter(()))
    cores = os.sched_getaffinity(0)
    assert count_cores() == len(cores)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),  # docker --cpus 1.5
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/user/app\n", {"user/app/cpu.max": "max 100000", "user/cpu.max": "300000 100000"}, [3.0]),  # a limit further up
        (
            "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n",  # version 1
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            [0.5],
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),  # no limit
        ("rubbish\n", {"cpu.max": "1 1"}, []),
        (None, {"cpu.max": "1 1"}, []),
    ],
)
def test_limits_of_control_groups_are_read(tmp_path, monkeypatch, groups, files, quotas):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    assert list(threads._quotas(tmp_path, tmp_path / "groups")) == quotas
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(threads, "_quotas", lambda: iter(quotas))
    assert count_cores() == max(1, int(np.ceil(min(quotas, default=8))))


@pytest.mark.parametrize(
    ("loadavg", "cores", "free"),
    [
        ("0.00 0.00 0.00 1/300 77", 2, 2),  # nobody else
        ("0.00 0.00 0.00 2/300 77", 2, 1),
        ("9.00 9.00 9.00 40/900 77", 16, 1),
        ("9.00 9.00 9.00 5/900 77", 16, 12),
    ],
)
def test_a_model_runs_on_the_cores_that_nobody_else_uses(loadavg, cores, free):
    assert count_free_cores(loadavg, cores) == free


def test_python_leaves_the_process_as_it_was(corpus, tmp_path):
    script = """
import ctypes, os, torch
torch.set_num_threads(5)
environment = dict(os.environ)
import charrnn
def refuse(*_): raise AssertionError("mallopt")
ctypes.CDLL = refuse
charrnn.train("corpus.txt", steps=4, layers=1, hidden_size=128, batch_size=8, seq_length=80, out="run", threads=2)
assert torch.get_num_threads() == 5, torch.get_num_threads()
assert dict(os.environ) == environment
charrnn.load("run").score("a text")
assert dict(os.environ) == environment
"""
    clean = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=clean, timeout=120)


@pytest.fixture
def measured(monkeypatch):
    """Make the first measured speed this many times the true one; later ones are true."""

    def lie(factor):
        true = device.measure_speed(device.Machine(), "float32", 60)
        speeds = iter([factor * true, true])
        fake = lambda *_, **__: next(speeds)  # noqa: E731
        monkeypatch.setattr(device, "measure_speed", fake)
        return true

    return lie


@pytest.mark.alone
@pytest.mark.parametrize("factor", [30.0, 1.0])
def test_a_speed_that_was_far_off_is_measured_again_and_the_run_begins_again_in_the_rest_of_its_time(
    tmp_path, measured, factor
):
    measured(factor)
    text = tmp_path / "long.txt"
    text.write_text((CORPORA / "the-lamp.txt").read_text() * 10)
    options = Options(seconds=6.0)
    begun = Run.create([text], options, tmp_path / "run")
    first = begun.recipe
    replans = [event for event in begun.events(options) if isinstance(event, Replan)]
    header = read_state(tmp_path / "run" / STATE)[1]
    assert begun.counters.seconds == pytest.approx(6.0, abs=1.5)
    assert header.recipe == begun.recipe
    assert header.history[-1].step == begun.step
    if factor == 1.0:
        assert not replans
        assert begun.recipe == first
    else:
        (replan,) = replans
        assert replan.ratio == pytest.approx(1 / factor)
        assert replan.recipe == begun.recipe
        assert begun.recipe.hidden_size < first.hidden_size
        assert Run.resume(tmp_path / "run").step == begun.step
