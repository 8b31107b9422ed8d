"""Encodings of a model's texts in `sample`, `eval` and `--copied`: bytes in and out, and texts that are not UTF-8."""

import json

import pytest
from conftest import charrnn

from charrnn import load

TUNE = bytes(range(256)) * 4 + bytes([0x90, 60, 64, 0x80, 60, 64]) * 60


@pytest.fixture(scope="module")
def tune(tmp_path_factory):
    """A folder with a model of bytes."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "tune.mid").write_bytes(TUNE)
    sizes = ["--steps", 60, "--hidden-size", 24, "--layers", 1]
    charrnn("train", "tune.mid", "--encoding", "bytes", *sizes, "-q", "-o", "run", cwd=folder)
    return folder


def test_a_model_of_bytes_writes_bytes_and_scores_what_it_wrote(tune):
    out, _ = charrnn("sample", "-m", "run", "-n", 400, "--seed", 1, cwd=tune)
    assert len(out) == 400
    assert max(out) > 0x7F
    text = out.decode("latin-1")
    assert text == load(tune / "run").sample(length=400, seed=1)
    figures = json.loads(charrnn("eval", "-", "-m", "run", "--json", cwd=tune, text=out)[0])
    assert figures["characters"] == 400
    assert figures["unknown_characters"] == 0
    assert figures["bits_per_character"] == pytest.approx(load(tune / "run").bits_per_character(text))


def test_a_model_of_bytes_takes_bytes_as_a_prime(tune):
    prime = TUNE[-9:]
    (tune / "prime.mid").write_bytes(prime)
    arguments = ["sample", "-m", "run", "-n", 20, "--seed", 1]
    out, errors = charrnn(*arguments, "--prime-file", "prime.mid", cwd=tune)
    assert out.startswith(prime)
    assert "warning" not in errors
    assert charrnn(*arguments, cwd=tune, text=prime)[0] == out
    several = charrnn(*arguments, "--count", 2, "--prime-file", "prime.mid", cwd=tune)[0]
    assert several.startswith(out)
    assert charrnn(*arguments, "--prime", "é", cwd=tune)[0].startswith("é".encode())


TEXTS = {
    "cp1252": "Der Löwe schläft. «Schön», sagte er — und ging.\n",
    "koi8-r": "Все счастливые семьи похожи друг на друга.\n",
    "euc_kr": "한국어는 아름답다. 모든 사람은 자유롭다.\n",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_a_text_in_another_encoding_is_scored_and_compared_as_it_was_trained_on(encoding, tmp_path):
    text = TEXTS[encoding] * 40
    (tmp_path / "t.txt").write_bytes(text.encode(encoding))
    charrnn("train", "t.txt", "--encoding", encoding, "--steps", 2, "-q", cwd=tmp_path)
    for as_encoded in (encoding, "utf-8"):
        (tmp_path / "part.txt").write_bytes(text[:200].encode(as_encoded))
        figures = json.loads(charrnn("eval", "part.txt", "--json", cwd=tmp_path)[0])
        assert (figures["characters"], figures["unknown_characters"]) == (200, 0)
        for arguments in (["--copied", "t.txt", "--encoding", encoding], ["--copied", "runs/t"]):
            figures = json.loads(charrnn("eval", "part.txt", *arguments, "--json", cwd=tmp_path)[0])
            assert figures["copied_share"] == 1.0, (as_encoded, arguments)
    piped = charrnn("eval", "-", "--copied", "t.txt", "--encoding", encoding, "--json", cwd=tmp_path, text=text[:200])[0]
    assert json.loads(piped)["copied_share"] == 1.0
