"""Reading, the vocabulary, the split and the windows."""

import numpy as np
import pytest

from charrnn.corpus import BY_HEART, Vocabulary, Windows, fit_windows, scoring_blocks
from charrnn.errors import CharrnnError
from charrnn.reading import read_corpus, read_text


def test_a_vocabulary_is_in_code_point_order_and_round_trips():
    vocabulary = Vocabulary("zażółć 🦉 gęślą\r\n")
    assert list(vocabulary.characters) == sorted(set("zażółć 🦉 gęślą\r\n"))
    assert vocabulary.decode(vocabulary.encode("🦉ż\r")) == "🦉ż\r"
    assert vocabulary.encode("aя\U0010ffff").tolist()[1:] == [-1, -1]


def test_a_byte_order_mark_is_dropped_and_line_ends_are_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text([tmp_path / "a.txt"])[0] == "one\r\ntwo\rthree\n"


def test_a_folder_gives_its_text_files_in_sorted_order_and_names_the_others(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, data in {"b.txt": b"B", "a.txt": b"A", "sub/c.md": b"C", "x.png": b"\x89PNG\0\xff", ".hidden": b"no"}.items():
        (tmp_path / name).write_bytes(data)
    text, notes = read_text([tmp_path])
    assert text == "ABC"
    assert len(notes) == 1
    assert "x.png" in notes[0]


def test_any_encoding_is_read_and_a_wrong_one_names_the_byte(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("früh".encode("latin-1"))
    assert read_text([path], "latin-1")[0] == "früh"
    with pytest.raises(CharrnnError, match=r"latin\.txt is not utf-8 at byte 2.*--encoding"):
        read_text([path])


def parts(folder, text, validation):
    (folder / "t.txt").write_text(text)
    return [part.text() for part in read_corpus([folder / "t.txt"]).split(validation)]


def test_the_end_is_held_out(tmp_path):
    assert parts(tmp_path, "abcdefghij", 0.2) == ["abcdefgh", "ij"]
    assert parts(tmp_path, "abc", 0.1) == ["abc", ""]
    assert parts(tmp_path, "abc", 0.0) == ["abc", ""]


@pytest.mark.parametrize(("n", "batch_size", "seq_length"), [(101, 4, 5), (7, 1, 6), (100, 3, 7), (2, 1, 1), (64, 5, 50)])
def test_an_epoch_covers_every_character_and_its_windows_join(n, batch_size, seq_length):
    windows = Windows(np.arange(n, dtype=np.int32), batch_size, seq_length, seed=0)
    seen, last = set(), None
    for step in range(windows.per_epoch):
        inputs, targets, begins, moves_on = windows[step]
        assert inputs.shape == targets.shape
        assert (targets == inputs + 1).all()
        assert moves_on == (step == 0)
        assert begins[0] == (step == 0)
        if last is not None:
            assert (inputs[0] == last).all()
        last = targets[-1]
        seen |= set(targets.ravel().tolist())
    assert seen == set(range(1, n))


def test_streams_of_a_long_text_begin_afresh_now_and_then():
    windows = Windows(np.zeros(BY_HEART * 4, np.int32), 8, 16, seed=0)
    fresh = sum(int(windows[step][2].sum()) for step in range(200))
    assert 10 < fresh < 80


@pytest.mark.parametrize(("n", "asked", "fits"), [(7, (32, 48), (1, 6)), (2, (4, 4), (1, 1)), (1000, (32, 48), (20, 48))])
def test_windows_are_cut_to_what_fits(n, asked, fits):
    assert fit_windows(n, *asked) == fits


@pytest.mark.parametrize(("length", "streams"), [(1, 1), (1000, 1), (10_000, 4), (10_001, 3)])
def test_each_step_is_scored_once(length, streams):
    scored = np.concatenate([at[counts] for at, counts in scoring_blocks(length, streams, 256, 64)])
    assert sorted(scored.tolist()) == list(range(length))
