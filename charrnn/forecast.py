"""Numbers in time: given a table of numbers, a row for each moment, it learns to forecast one column some rows ahead.

`read_series` reads the table, `Forecaster` learns and forecasts, `score` holds forecasts to what came. All that is chosen,
the scaling too, comes from the training rows alone. It knows no characters and prints nothing. Letters: N rows, D input
columns, T rows of a window, B windows, H hidden size.
"""

import csv
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional

from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.model import MODULES
from charrnn.optimizer import Optimizer
from charrnn.reading import STDIN, read_text

MODEL = "forecast.safetensors"
MISSING = {"", "-", ".", "?", "na", "n/a", "nan", "none", "null"}  # what stands in a cell without a value
LARGEST = 1e100  # no number is larger: the squares of larger ones leave float64
DATES = {"date", "time", "datetime", "timestamp"}  # a column so named says when, in numbers too
FORMATS = ("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y")  # besides ISO 8601
BATCH = 8192  # windows at most in a step; of more, each step draws so many
CLIP = 1.0  # the largest norm of the gradient
SURE = 2.0  # standard errors by which a forecast must be better to be called so


@dataclass(frozen=True)
class Settings:
    """How to forecast and how to learn it: the options of the command."""

    window: int = 7  # rows that a forecast is made from
    horizon: int = 1  # rows ahead that it is made for
    cell: str = "lstm"
    layers: int = 1  # 0: a linear function of the window's last row
    hidden_size: int = 10
    steps: int = 500
    learning_rate: float = 0.01
    validation: float = 0.3  # the share of the rows, the last ones, that is held out
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in (("window", 65536), ("horizon", 65536), ("layers", 64), ("hidden_size", 65536), ("steps", 10**9)):
            value, least = getattr(self, name), int(name != "layers")
            if not least <= value <= most:
                raise CharrnnError(f"--{name.replace('_', '-')} {value} is not between {least} and {most}")
        if self.cell not in MODULES:
            raise CharrnnError(f"--cell {self.cell} is none of {', '.join(MODULES)}")
        if not 0 < self.learning_rate <= 10:
            raise CharrnnError(f"--learning-rate {self.learning_rate} is not in (0, 10]")
        if not 0 <= self.validation < 1:
            raise CharrnnError(f"--validation {self.validation:g} is not at least 0 and below 1")
        if not 0 <= self.seed < 2**63:
            raise CharrnnError(f"--seed {self.seed} is not between 0 and {2**63 - 1}")


@dataclass(frozen=True)
class Series:
    """Rows of numbers, the oldest first."""

    columns: list[str]  # the names of the D inputs
    inputs: np.ndarray  # (N, D) float64
    target_name: str
    target: np.ndarray  # (N) float64
    known: np.ndarray  # (N) bool: where the target stood in the table and was not carried on
    moment: str  # the name of what `moments` are
    moments: list[str]  # (N) the date of each row, or its line in the file
    notes: list[str]  # for the user: what was repaired

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Progress:
    """Where the learning stands."""

    step: int
    steps: int
    loss: float  # mean squared error, as a multiple of the naive forecast's


@dataclass(frozen=True)
class Scores:
    """How far forecasts were from what came, in the target's own units; `naive` says today's value for any day."""

    rows: int
    rmse: float
    naive_rmse: float
    mae: float
    naive_mae: float
    span: float  # of the target in the training rows: a figure over it is the figure in scaled units
    sureness: float  # by how many standard errors the mean squared error is below the naive one's

    @property
    def better(self) -> bool:
        return self.rmse < self.naive_rmse

    @property
    def surely(self) -> bool:
        return self.sureness >= SURE


class Forecaster(nn.Module):
    """Stacked cells that read the T rows of a window, and a linear head on their last state.

    The head says by how much the target changes, in units of `change`, so that the untrained network is the naive
    forecast: the target stays as it is. Trends that leave the range of the training rows are then no trouble either.
    """

    def __init__(
        self, settings: Settings, columns: list[str], target: str, low: list[float], span: list[float], change: float
    ):
        super().__init__()
        self.settings, self.columns, self.target, self.low, self.span, self.change = settings, columns, target, low, span, change
        D, H, module = len(columns), settings.hidden_size, MODULES[settings.cell]
        layers = [module(H if i else D, H) for i in range(settings.layers)]
        self.layers: list[nn.RNNBase] = nn.ModuleList(layers)  # type: ignore[assignment]  # it is iterated over as a list
        self.head = nn.Linear(H if layers else D, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def create(cls, series: Series, settings: Settings) -> "Forecaster":
        """An untrained network, with the scaling that the training rows of `series` give.

        Raises: CharrnnError where there are too few rows for one window to learn from or, if rows are held out, to score.
        """
        training = training_rows(len(series), settings)
        windows = settings.window + settings.horizon - 1
        if training <= windows or (settings.validation and len(series) == training):
            raise CharrnnError(
                f"{len(series)} rows are too few: a window of {settings.window} and a horizon of {settings.horizon} take "
                f"at least {windows + 1} to learn from, and {len(series) - training} are held out"
            )
        low, span = _scaling(series.inputs[:training])
        settled = series.known[:training].nonzero()[0][-1:]
        rows = _scored(series, settings, 0, training)
        if not len(settled) or not len(rows):
            raise CharrnnError(f"the {training} training rows hold no value of {series.target_name} to learn")
        change = series.target[rows] - series.target[rows - settings.horizon]
        torch.manual_seed(settings.seed)
        return cls(settings, series.columns, series.target_name, low, span, _rms(change) or 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled windows (T, B, D) to changes of the target (B), in units of `change`."""
        for i, layer in enumerate(self.layers):
            out = layer(x)[0]  # (T, B, H)
            x = x + out if i else out
        changes: Tensor = self.head(x[-1])  # (B, 1)
        return changes[:, 0]

    def learn(self, series: Series) -> Iterator[Progress]:
        """Learn the training rows by Adam on all windows at once (of more than BATCH, on so many drawn anew at each step).

        Raises: CharrnnError (status 1) where the loss diverges.
        """
        settings, parameters = self.settings, list(self.parameters())
        rows = _scored(series, settings, 0, training_rows(len(series), settings))
        windows = self._windows(series)
        change = (series.target[rows] - series.target[rows - settings.horizon]) / self.change
        wanted = torch.from_numpy(change.astype(np.float32))
        chosen = torch.from_numpy(rows - settings.horizon - settings.window + 1)  # each row's window
        optimizer, generator = Optimizer([], parameters), torch.Generator().manual_seed(settings.seed)
        some = torch.arange(len(rows))
        for step in range(1, settings.steps + 1):
            if len(rows) > BATCH:
                some = torch.randint(len(rows), (BATCH,), generator=generator)
            if step == 1 or len(rows) > BATCH:
                x, y = _gather(windows, chosen[some]), wanted[some]
            loss = functional.mse_loss(self(x), y)
            self.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step(step, settings.learning_rate, 0.0)
            if not math.isfinite(loss.item()):
                raise CharrnnError(f"the loss diverged at step {step}; take a smaller --learning-rate", 1)
            yield Progress(step, settings.steps, loss.item())

    @torch.no_grad()
    def forecast(self, series: Series) -> np.ndarray:
        """The target's forecasts (N + horizon) float64: at row r from the window that ends `horizon` rows before r.

        The first rows, which no window reaches, are NaN; the last `horizon` lie beyond the table.
        """
        T, horizon = self.settings.window, self.settings.horizon
        windows = self._windows(series)
        parts = [self(_gather(windows, chosen)) for chosen in torch.arange(len(windows)).split(BATCH)]
        forecasts = np.full(len(series) + horizon, np.nan)
        forecasts[T - 1 + horizon :] = series.target[T - 1 :] + torch.cat(parts).double().numpy() * self.change
        return forecasts

    def _windows(self, series: Series) -> np.ndarray:
        """Every window of the scaled inputs: (N - T + 1, D, T) float32, a view."""
        scaled = (series.inputs - np.array(self.low)) / np.array(self.span)
        bounded = np.clip(scaled, -checkpoint.LARGEST, checkpoint.LARGEST).astype(np.float32)
        return sliding_window_view(bounded, self.settings.window, axis=0)

    def save(self, folder: Path) -> None:
        """Write the model into `folder`, complete in itself: weights, and scaling and settings in its header.

        Raises: CharrnnError (status 1) where it can't be written.
        """
        tensors = {name: tensor.numpy() for name, tensor in self.state_dict().items()}
        facts = {name: getattr(self, name) for name in ("columns", "target", "low", "span", "change")}
        checkpoint.write(folder / MODEL, tensors, {"forecast": facts | {"settings": dataclasses.asdict(self.settings)}})

    @classmethod
    def load(cls, path: str | Path) -> "Forecaster":
        """Read a model that `save` wrote: its folder or file. Raises: CharrnnError where it is not such a file."""
        path = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        tensors, header = checkpoint.read(path)
        try:
            facts = header["forecast"]
            columns = [name for name in facts["columns"] if isinstance(name, str)]
            numbers = [[checkpoint.number(value) for value in facts[key]] for key in ("low", "span")]
            settings, change = checkpoint.typed(Settings, facts["settings"]), checkpoint.number(facts["change"])
            if not len(columns) == len(facts["columns"]) == len(numbers[0]) == len(numbers[1]) or not columns:
                raise ValueError("its columns and scaling don't fit together")
            if min(numbers[1]) <= 0 or change <= 0:
                raise ValueError("its scaling divides by what is not above 0")
            expected = _shapes(settings, len(columns))  # before anything of that size is allocated
            if {name: tensor.shape for name, tensor in tensors.items()} != expected:
                raise ValueError("its tensors are not those of its settings")
            if not all(t.dtype == np.float32 and checkpoint.sound(t) for t in tensors.values()):
                raise ValueError("its tensors are not float32, or hold numbers that are not finite")
            model = cls(settings, columns, str(facts["target"]), *numbers, change)
        except (KeyError, TypeError, ValueError, CharrnnError) as error:
            raise CharrnnError(f"{path} is not a usable forecast model: {error}") from None
        model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
        return model


def training_rows(rows: int, settings: Settings) -> int:
    """How many of so many rows, the first ones, are learned from."""
    return rows - round(rows * settings.validation)


def naive(series: Series, settings: Settings) -> np.ndarray:
    """The naive forecasts (N + horizon): each row's value is that of `horizon` rows before."""
    return np.concatenate([np.full(settings.horizon, np.nan), series.target])


def score(series: Series, forecasts: np.ndarray, settings: Settings, first: int | None = None) -> Scores | None:
    """Hold the forecasts (N + horizon) of the rows from `first` on (without it, of those held out) to what came.

    None where there is no such row. `sureness` is the statistic of Diebold & Mariano (1995) for squared errors.
    """
    training = training_rows(len(series), settings)
    rows = _scored(series, settings, training if first is None else first, len(series))
    if not len(rows):
        return None
    error, simple = (made[rows] - series.target[rows] for made in (forecasts, naive(series, settings)))
    gain = simple**2 - error**2
    centred, n = gain - gain.mean(), len(gain)
    lags = range(1, min(settings.horizon, n))  # forecasts that overlap err together
    variance = float(centred @ centred + 2 * sum(centred[k:] @ centred[:-k] for k in lags)) / n
    if variance <= 0:
        variance = float(centred @ centred) / n
    span = _scaling(series.target[:training, None])[1][0]
    sureness = float(gain.mean()) / math.sqrt(variance / n) if variance > 0 else 0.0
    mae, simple_mae = (float(np.abs(e).mean()) for e in (error, simple))
    return Scores(n, _rms(error), _rms(simple), mae, simple_mae, span, sureness)


def read_series(
    source: str | Path,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    reverse: bool = False,
    encoding: str = "utf-8",
) -> Series:
    """Read a table (CSV with commas, semicolons or tabs; '-' for standard input), the oldest row first.

    A first row without a number names the columns, or else the comment ('#') right above the first row, if it has as many
    cells. `target` and `columns` are such names, or numbers from 1; without them the target is the last column of numbers
    and the inputs are all of them. `reverse` turns a table that begins with its newest row. A missing value is that of the
    row before; rows before a column's first value are left out.

    Raises: CharrnnError for what is no table, a name that is not there, text among numbers, dates that are out of order.
    """
    if str(source) != STDIN and Path(source).is_dir():
        raise CharrnnError(f"{source} is a folder; name a file of comma-separated values")
    table, names, lines = _parse(read_text([source], encoding)[0], "standard input" if str(source) == STDIN else str(source))
    if reverse:
        table, lines = table[::-1], lines[::-1]
    cells = list(zip(*table, strict=True))  # by column
    values = [[_number(cell) for cell in column] for column in cells]
    numeric = [any(value is not None and not math.isnan(value) for value in column) for column in values]
    dates = [j for j, name in enumerate(names) if (numeric[j] and name.lower() in DATES and None not in values[j])]
    notes = []
    for j in range(len(names)):
        if not numeric[j] and (read := _dates(cells[j])):
            dates.append(j)
            _require_order(read, names[j], cells[j], lines, reverse)
        elif not numeric[j] and columns is None:
            notes.append(f"column {names[j]} holds no numbers and is left out")
    for j in dates[:1]:
        if numeric[j]:
            _require_order([values[j]], names[j], cells[j], lines, reverse)
    usable = [j for j in range(len(names)) if numeric[j] and j not in dates]
    if not usable:
        raise CharrnnError("the table holds no column of numbers")
    inputs = usable if columns is None else list(dict.fromkeys(_find(name, names, "--columns") for name in columns))
    goal = usable[-1] if target is None else _find(target, names, "--target")
    used = [*inputs, goal]
    for j in used:
        if not numeric[j]:
            raise CharrnnError(f"column {names[j]} holds no numbers (line {lines[0]}: {cells[j][0]!r})")
        for row, value in enumerate(values[j]):
            if value is None:
                raise CharrnnError(f"line {lines[row]}, column {names[j]}: {_fault(cells[j][row])}")
    filled, missing, start = _carry_on(np.array([values[j] for j in used], dtype=np.float64).T)
    if start:
        notes.append(f"the first {start} rows are left out: not every column has a value there yet")
    gaps = {names[j]: int(count) for j, count in zip(used, missing[start:].sum(0), strict=True) if count}
    if gaps:
        counts = ", ".join(f"{count} in {name}" for name, count in gaps.items())
        notes.append(f"missing values: {counts}; the last value before each is carried on")
    moment, moments = (names[dates[0]], list(cells[dates[0]])) if dates else ("line", list(map(str, lines)))
    return Series(
        [names[j] for j in inputs],
        filled[start:, :-1],
        names[goal],
        filled[start:, -1],
        ~missing[start:, -1],
        moment,
        moments[start:],
        notes,
    )


def _parse(text: str, source: str) -> tuple[list[list[str]], list[str], list[int]]:
    """The rows of a table, the names of its columns, and the line that each row stands in."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    kept = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not kept:
        raise CharrnnError(f"{source} holds no rows")
    delimiter = next((mark for mark in "\t;," if mark in kept[0][1]), ",")
    reader = csv.reader([line for _, line in kept], delimiter=delimiter, skipinitialspace=True)
    table, numbers = [], []
    try:
        for cells in reader:
            numbers.append(kept[reader.line_num - 1][0])
            table.append([cell.strip() for cell in cells])
            if len(cells) != len(table[0]):
                raise CharrnnError(f"{source}, line {numbers[-1]}: {len(cells)} cells, but {len(table[0])} in the first row")
    except csv.Error as error:
        raise CharrnnError(f"{source}, line {kept[reader.line_num - 1][0]}: {error}") from None
    width = len(table[0])
    names = [str(j + 1) for j in range(width)]
    if any(_number(cell) is None for cell in table[0]) and not any(map(_is_number, table[0])) and not _dates(table[0]):
        names = [cell or name for cell, name in zip(table.pop(0), names, strict=True)]
        numbers.pop(0)
    else:
        above = [line for number, line in lines if number < numbers[0]]
        said = [cell.strip() for cell in above[-1].lstrip("# \t").split(delimiter)] if above else []
        if len(said) == width and all(said) and not any(map(_is_number, said)):
            names = said
    if not table:
        raise CharrnnError(f"{source} holds the names of columns and no rows")
    return table, names, numbers


def _number(cell: str) -> float | None:
    """The number in a cell; NaN where it is missing, None where it is none."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None


def _is_number(cell: str) -> bool:
    value = _number(cell)
    return value is not None and not math.isnan(value)


def _fault(cell: str) -> str:
    hint = f"; write {cell.replace(',', '.')}" if cell.count(",") == 1 and _is_number(cell.replace(",", ".")) else ""
    try:
        return f"{cell[:40]!r} is larger than {LARGEST:g}" if abs(float(cell)) > LARGEST else ""
    except ValueError:
        return f"{cell[:40]!r} is no number{hint}"


def _dates(cells: Sequence[str]) -> list[list[float | None]]:
    """The seconds of a column's dates (None where one is missing), in each way of writing dates that fits all of them."""
    readings = []
    for form in (None, *FORMATS):
        try:
            readings.append([None if cell.lower() in MISSING else _seconds(cell, form) for cell in cells])
        except ValueError:
            continue
    return [reading for reading in readings if any(second is not None for second in reading)]


def _seconds(cell: str, form: str | None) -> float:
    moment = datetime.fromisoformat(cell) if form is None else datetime.strptime(cell, form)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _require_order(
    readings: Sequence[Sequence[float | None]], name: str, cells: Sequence[str], lines: list[int], reverse: bool
) -> None:
    """Raise CharrnnError where none of the readings of a date column rises from row to row."""
    falls, breaks = False, []
    for reading in readings:
        rows = [row for row, second in enumerate(reading) if second is not None and not math.isnan(second)]
        steps = [(row, (reading[row] or 0) - (reading[before] or 0)) for before, row in zip(rows, rows[1:], strict=False)]
        downs = [row for row, step in steps if step < 0]
        if not downs:
            return
        falls = falls or not any(step > 0 for _, step in steps)
        breaks.append(downs[0])
    if falls and reverse:
        raise CharrnnError(f"the dates in column {name} run from old to new; leave --reverse out")
    if falls:
        raise CharrnnError(f"the dates in column {name} run from new to old; add --reverse")
    raise CharrnnError(f"the dates in column {name} are in no order (line {lines[breaks[0]]}: {cells[breaks[0]]}); sort the rows")


def _find(name: str, names: list[str], option: str) -> int:
    """The column of that name or, from 1 on, that number. Raises: CharrnnError that names the columns."""
    name = name.strip()
    found = [j for j, known in enumerate(names) if known == name]
    if len(found) > 1:
        raise CharrnnError(f"{option} {name}: several columns have that name; give a number from 1 to {len(names)}")
    if found:
        return found[0]
    if name.isdecimal() and 1 <= int(name[:9]) <= len(names):
        return int(name) - 1
    more = ", ..." if len(names) > 20 else ""
    raise CharrnnError(f"{option} {name}: there is no such column; there are {', '.join(names[:20])}{more}")


def _carry_on(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Values (N, D) with each NaN replaced by the value above it, where they were, and the first row without one."""
    missing = np.isnan(values)
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(values))[:, None]), axis=0)
    filled = np.take_along_axis(values, last, axis=0)
    return filled, missing, int((~np.isnan(filled)).all(1).argmax())


def _scaling(values: np.ndarray) -> tuple[list[float], list[float]]:
    """For each column of (N, D) its least value and its span; 1 where it is constant but for rounding."""
    low, high = values.min(0), values.max(0)
    span = np.where(high - low > 1e-12 * np.maximum(np.abs(low), np.abs(high)), high - low, 1.0)
    return low.tolist(), span.tolist()


def _scored(series: Series, settings: Settings, first: int, end: int) -> np.ndarray:
    """The rows from `first` to before `end` that a window reaches and whose target is known."""
    first = max(first, settings.window + settings.horizon - 1)
    return first + series.known[first:end].nonzero()[0]


def _gather(windows: np.ndarray, chosen: Tensor) -> Tensor:
    """Windows (B', D, T) and the numbers of B of them, to (T, B, D)."""
    return torch.from_numpy(np.ascontiguousarray(windows[chosen.numpy()].transpose(2, 0, 1)))


def _shapes(settings: Settings, inputs: int) -> dict[str, tuple[int, ...]]:
    """The name and shape of each tensor of a `Forecaster`."""
    H, rows = settings.hidden_size, checkpoint.GATES[settings.cell] * settings.hidden_size
    expected: dict[str, tuple[int, ...]] = {"head.weight": (1, H if settings.layers else inputs), "head.bias": (1,)}
    for i in range(settings.layers):
        expected |= {
            f"layers.{i}.weight_ih_l0": (rows, H if i else inputs),
            f"layers.{i}.weight_hh_l0": (rows, H),
            f"layers.{i}.bias_ih_l0": (rows,),
            f"layers.{i}.bias_hh_l0": (rows,),
        }
    return expected


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float((values**2).mean()))
