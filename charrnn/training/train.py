"""Training as one call for Python."""

from collections.abc import Callable, Sequence
from pathlib import Path

from charrnn.inference.model import Model, load
from charrnn.options import Options
from charrnn.training.distributed import join
from charrnn.training.events import Event
from charrnn.training.run import Run


def train(
    corpus: str | Path | Sequence[str | Path],
    *,
    seconds: float | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    cell: str = "lstm",
    layers: int | None = None,
    hidden_size: int | None = None,
    embedding: int | None = None,
    seq_length: int | None = None,
    batch_size: int | None = None,
    dropout: float | None = None,
    learning_rate: float | None = None,
    validation: str | float | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    encoding: str = "utf-8",
    max_vocabulary: int | None = None,
    records: str | None = None,
    threads: int | None = None,
    out: str | Path | None = None,
    init_from: str | Path | None = None,
    watch: Callable[[Event], None] = lambda event: None,
) -> Model:
    """Train a model on files or folders and return the best one, which is also saved in the folder `out`.

    The length is `seconds`, `epochs` or `steps` (default: five minutes). `embedding` 0 feeds one-hot vectors; `validation`
    is a fraction of the text or a file; `records` ("line" or "paragraph") makes each of them a sequence of its own. None
    leaves the choice to the program. `watch` is given each event. Raises: CharrnnError for unusable input.

    >>> train("corpora/hihello.txt", steps=50, hidden_size=5, validation=0.0)  # doctest: +SKIP
    <Model runs/hihello/model.safetensors: 1 x 5 lstm, 5 characters>
    """
    options = Options(
        seconds=300.0 if seconds is epochs is steps is None else seconds,
        epochs=epochs,
        steps=steps,
        cell=cell,
        num_layers=layers,
        hidden_size=hidden_size,
        embedding_size=embedding,
        seq_length=seq_length,
        batch_size=batch_size,
        dropout=dropout,
        learning_rate=learning_rate,
        validation=validation,
        seed=seed,
        device=device,
        precision=precision,
        encoding=encoding,
        max_vocabulary=max_vocabulary,
        records=records,
        threads=threads,
    )
    sources = [corpus] if isinstance(corpus, (str, Path)) else list(corpus)
    with join() as group:
        with group.raise_together():
            group.require_same(vars(options))
            run = Run.create(sources, options=options, out=out, init_from=init_from, group=group)
        for event in run.events(options):
            watch(event)
    return load(run.folder.path)
