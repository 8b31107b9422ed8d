"""Numbers in time: given a `Series`, a row of numbers for each moment, it learns to forecast one of them some rows ahead.

All choices come from the training rows alone. Letters: N rows, D input columns, T rows of a window, B windows, H hidden size.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional

from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.forecast.table import Series
from charrnn.headers import parse, to_json
from charrnn.network.cells import CELLS, layer_shapes
from charrnn.network.char_rnn import MODULES, Layer
from charrnn.network.optimizer import Optimizer
from charrnn.options import one_of

MODEL = "forecast.safetensors"
BATCH = 1 << 16  # rows at most that a step reads; if all windows have more, each step draws some
CLIP = 1.0  # the largest norm of the gradient
CHECK = 0.2  # the share of the training rows, the last ones, on which each step's weights are checked
LARGEST = {"window": 65536, "horizon": 65536, "num_layers": 16, "hidden_size": 1024, "steps": 10**9}
SURE = 2.0  # standard errors by which a forecast must be better to be called so


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the command. Raises: CharrnnError for a value that can't be used."""

    KEYS: ClassVar = {"num_layers": "layers"}  # a name in files and flags that is not the field's

    window: int = 7  # rows that a forecast is made from
    horizon: int = 1  # rows ahead that it is made for
    cell: str = "lstm"
    num_layers: int = 1  # 0: a linear function of the window's last row
    hidden_size: int = 10
    steps: int = 500
    learning_rate: float = 0.01
    validation: float = 0.3  # the share of the rows, the last ones, that is held out
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value, least = getattr(self, name), int(name != "num_layers")
            if not least <= value <= most:
                flag = self.KEYS.get(name, name).replace("_", "-")
                raise CharrnnError(f"--{flag} {value} is not between {least} and {most}")
        if self.cell not in CELLS:
            raise CharrnnError(f"--cell must be {one_of(tuple(CELLS))}, not {self.cell!r}")
        if not 0 < self.learning_rate <= 10:
            raise CharrnnError(f"--learning-rate {self.learning_rate} is not in (0, 10]")
        if not 0 <= self.validation < 1:
            raise CharrnnError(f"--validation {self.validation:g} is not at least 0 and below 1")
        if not 0 <= self.seed < 2**63:
            raise CharrnnError(f"--seed {self.seed} is not between 0 and {2**63 - 1}")

    def training_rows(self, rows: int) -> int:
        """How many of so many rows, the first ones, are for training."""
        return rows - round(rows * self.validation)


@dataclass(frozen=True, kw_only=True)
class Header:
    """All of a forecaster but its weights. Raises: ValueError where it doesn't fit together."""

    columns: list[str]  # the names of the inputs
    target: str
    low: list[float]  # the least value of each input and, last, of the target in the training rows
    span: list[float]  # from there to the largest; both scale to 0..1
    change: float  # the unit in which the network says how the target changes
    settings: Settings

    def __post_init__(self) -> None:
        if not 0 < len(self.columns) == len(self.low) - 1 == len(self.span) - 1:
            raise ValueError("its columns and scaling don't fit together")
        if min(self.span) <= 0 or self.change <= 0:
            raise ValueError("its scaling divides by what is not above 0")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The errors of forecasts, in the target's own units; the naive forecast is that the target stays as it is."""

    rows: int
    rmse: float
    naive_rmse: float
    mae: float
    naive_mae: float
    span: float  # of the target in the training rows; an error divided by it is in scaled units
    sureness: float  # standard errors by which the mean squared error is below the naive one's (Diebold & Mariano 1995)

    @property
    def verdict(self) -> str:
        """Whether the network is better than the naive forecast, as a sentence."""
        if not self.rmse < self.naive_rmse:
            return "the network is no better than the naive forecast"
        gain = f"the network's RMSE is {1 - self.rmse / self.naive_rmse:.1%} below that of the naive forecast"
        return gain if self.sureness >= SURE else gain + ", no more than chance may give"


class Forecaster(nn.Module):
    """Stacked cells that read the T rows of a window, and a linear head on their last state.

    The head says by how much the target changes, in units of `change`. So the untrained network is the naive forecast, that
    the target stays as it is, and the network can follow a trend that leaves the range of the training rows.
    """

    def __init__(self, header: Header):
        super().__init__()
        self.header = header
        self.settings = header.settings
        self.batch = max(BATCH // self.settings.window, 1)  # windows at most that a step reads
        self.kept = 0  # the step that these weights are from
        D, H = len(header.columns), self.settings.hidden_size
        layers = [MODULES[self.settings.cell](H if i else D, H) for i in range(self.settings.num_layers)]
        self.layers: list[Layer] = nn.ModuleList(layers)  # type: ignore  # a list to whoever reads it
        self.head = nn.Linear(H if layers else D, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def create(cls, series: Series, settings: Settings) -> "Forecaster":
        """An untrained network, scaled by the training rows of `series`. Raises: CharrnnError for too few to learn or score."""
        training = settings.training_rows(len(series))
        windows = settings.window + settings.horizon - 1
        if training <= windows or (settings.validation and len(series) == training):
            need = f"a window of {settings.window} and a horizon of {settings.horizon} take at least {windows + 1}"
            found = f"{need} to learn from, and {len(series) - training} are held out"
            raise CharrnnError(f"too few rows ({len(series)}): {found}")
        rows = _scored(series, settings, first=0, end=training)
        if not len(rows):
            raise CharrnnError(f"the {training} training rows hold no value of {series.target_name} to learn")
        values = np.column_stack([series.inputs, series.target])[:training]
        low, high = values.min(0), values.max(0)
        constant = high - low <= 1e-12 * np.maximum(np.abs(low), np.abs(high))  # except for rounding
        span = np.where(constant, 1.0, high - low)
        change = _rms(series.target[rows] - series.target[rows - settings.horizon]) or 1.0
        torch.manual_seed(settings.seed)
        scaling = {"low": low.tolist(), "span": span.tolist(), "change": change}
        return cls(Header(columns=series.columns, target=series.target_name, settings=settings, **scaling))

    def forward(self, x: Tensor) -> Tensor:
        """Scaled windows (T, B, D) to changes of the target (B), in units of `change`."""
        x = 4 * x - 2  # 0..1 to the range in which the cells' functions bend
        for i, layer in enumerate(self.layers):
            out = layer(x)[0]  # (T, B, H)
            x = x + out if i else out
        changes: Tensor = self.head(x[-1])  # (B, 1)
        return changes[:, 0]

    def learn(self, series: Series) -> Iterator[int]:
        """Train by Adam on all windows of the training rows at once or, if they are many, on a random batch at each step.

        It yields the number of each step. At the end it has the weights of the step that forecasts the last CHECK of the
        training rows best; these rows are not learned from, unless no others are left.
        Raises: CharrnnError (status 1) where the loss diverges.
        """
        settings = self.settings
        training = settings.training_rows(len(series))
        rows = _scored(series, settings, first=0, end=training)
        learned = rows < training - round(training * CHECK)
        learned |= not learned.any()
        windows = self._windows(series)
        check_x, check_y = self._pairs(windows, series, rows=rows[~learned][-self.batch :])
        best = float(check_y.square().mean())  # of step 0, the naive forecast; NaN if no rows are checked
        weights = deepcopy(self.state_dict())
        rows = rows[learned]
        optimizer = Optimizer([], list(self.parameters()))
        generator = torch.Generator().manual_seed(settings.seed)
        for step in range(1, settings.steps + 1):
            if len(rows) > self.batch:
                drawn = torch.randint(len(rows), (self.batch,), generator=generator).numpy()
                x, y = self._pairs(windows, series, rows=rows[drawn])
            elif step == 1:
                x, y = self._pairs(windows, series, rows=rows)
            loss = functional.mse_loss(self(x), y)
            self.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters(), CLIP)
            optimizer.step(step, rate=settings.learning_rate, muon_rate=0.0)
            if not math.isfinite(loss.item()):
                raise CharrnnError(f"the loss diverged at step {step}; take a smaller --learning-rate", 1)
            with torch.no_grad():
                found = functional.mse_loss(self(check_x), check_y).item() if len(check_y) else math.nan
            if not found >= best:  # or NaN: then the last step is the best one
                best, weights, self.kept = found, deepcopy(self.state_dict()), step
            yield step
        self.load_state_dict(weights)

    @torch.no_grad()
    def forecast(self, series: Series) -> np.ndarray:
        """The target's forecasts (N + horizon) float64: at row r from the window that ends `horizon` rows before r.

        The first rows, which no window reaches, are NaN; the last `horizon` lie beyond the table.
        Raises: CharrnnError where there are fewer rows than a window has.
        """
        T, horizon = self.settings.window, self.settings.horizon
        if len(series) < T:
            raise CharrnnError(f"too few rows ({len(series)}) for a window of {T}")
        windows = self._windows(series)
        parts = [self(_gather(windows[i : i + self.batch])) for i in range(0, len(windows), self.batch)]
        forecasts = np.full(len(series) + horizon, np.nan)
        forecasts[T - 1 + horizon :] = series.target[T - 1 :] + torch.cat(parts).double().numpy() * self.header.change
        return forecasts

    def score(self, series: Series, forecasts: np.ndarray, first: int) -> Scores | None:
        """Score the forecasts (N + horizon) of the rows from `first` on; None if the target of no such row is known."""
        horizon = self.settings.horizon
        rows = _scored(series, self.settings, first=first, end=len(series))
        if not len(rows):
            return None
        span, truth, n = self.header.span[-1], series.target[rows], len(rows)
        error, naive = ((made - truth) / span for made in (forecasts[rows], series.target[rows - horizon]))
        gain = naive**2 - error**2
        centred = gain - gain.mean()
        lags = range(1, min(horizon, n))  # the errors of overlapping forecasts are correlated
        variance = float(centred @ centred + 2 * sum(centred[k:] @ centred[:-k] for k in lags)) / n
        if variance <= 0:
            variance = float(centred @ centred) / n
        sureness = float(gain.mean()) / math.sqrt(variance / n) if variance > 0 else 0.0
        rmse, naive_rmse = (_rms(e) * span for e in (error, naive))
        mae, naive_mae = (float(np.abs(e).mean()) * span for e in (error, naive))
        return Scores(rows=n, rmse=rmse, naive_rmse=naive_rmse, mae=mae, naive_mae=naive_mae, span=span, sureness=sureness)

    def report(self, series: Series, forecasts: np.ndarray, first: int) -> dict[str, str | float]:
        """What `--json` prints about the forecasts (N + horizon) of the rows from `first` on."""
        facts: dict[str, str | float] = {"target": self.header.target, "horizon": self.settings.horizon, "rows": len(series)}
        facts |= {"forecast": float(forecasts[-1]), "naive_forecast": float(series.target[-1])}
        scores = self.score(series, forecasts, first=first)
        if scores is None:
            return facts | {"scored_rows": 0}
        errors = {name: value for name, value in vars(scores).items() if name.endswith(("rmse", "mae"))}
        scaled = {f"scaled_{name}": error / scores.span for name, error in errors.items()}
        return facts | {"scored_rows": scores.rows} | errors | scaled | {"verdict": scores.verdict}

    def lines(self, series: Series, forecasts: np.ndarray, first: int) -> tuple[list[str], list[list[float]]]:
        """The moments of rows from `first` on ("+1" and so on beyond the table); truth, forecasts, naive ones, NaN for none."""
        horizon = self.settings.horizon
        first = max(first, self.settings.window + horizon - 1)
        truth = np.concatenate([np.where(series.known, series.target, np.nan), np.full(horizon, np.nan)])
        moments = [*series.moments[first:], *(f"+{k}" for k in range(1, horizon + 1))]
        return moments, [truth[first:].tolist(), forecasts[first:].tolist(), series.target[first - horizon :].tolist()]

    def _pairs(self, windows: np.ndarray, series: Series, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The windows (T, B, D) that forecast `rows` (B), and by how much the target changes up to these rows (B)."""
        now = rows - self.settings.horizon
        change = (series.target[rows] - series.target[now]) / self.header.change
        return _gather(windows[now - self.settings.window + 1]), torch.from_numpy(change.astype(np.float32))

    def _windows(self, series: Series) -> np.ndarray:
        """Every window of the scaled inputs: (N - T + 1, D, T) float32, a view."""
        scaled = (series.inputs - np.array(self.header.low[:-1])) / np.array(self.header.span[:-1])
        bounded = np.clip(scaled, -checkpoint.LARGEST, checkpoint.LARGEST).astype(np.float32)
        return sliding_window_view(bounded, self.settings.window, axis=0)

    def save(self, folder: Path) -> None:
        """Write the model into `folder`. Raises: CharrnnError (status 1) where it can't be written."""
        tensors = {name: tensor.numpy() for name, tensor in self.state_dict().items()}
        checkpoint.write(folder / MODEL, tensors, {"forecast": to_json(self.header)})

    @classmethod
    def load(cls, path: str | Path) -> "Forecaster":
        """Read a model that `save` wrote: its folder or file. Raises: CharrnnError where it is not such a file."""
        path = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        tensors, values = checkpoint.read(path)
        try:
            header = parse(Header, values["forecast"], exact=False)
            D, L, H = len(header.columns), header.settings.num_layers, header.settings.hidden_size
            shapes = {"head.weight": (1, H if L else D), "head.bias": (1,)}
            shapes |= layer_shapes(header.settings.cell, num_layers=L, inputs=D, hidden_size=H)
            if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
                raise ValueError("its tensors are not those of its settings")
            if not all(t.dtype == np.float32 and checkpoint.is_sound(t) for t in tensors.values()):
                raise ValueError("its tensors are not float32, or hold numbers that are not finite")
        except (KeyError, TypeError, ValueError, CharrnnError) as error:
            raise CharrnnError(f"{path} is not a usable forecast model: {error}") from None
        model = cls(header)
        model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
        return model


def _scored(series: Series, settings: Settings, first: int, end: int) -> np.ndarray:
    """The rows from `first` to before `end` that a window reaches and whose target is known."""
    first = max(first, settings.window + settings.horizon - 1)
    return first + series.known[first:end].nonzero()[0]


def _gather(windows: np.ndarray) -> Tensor:
    """Windows (B, D, T) as the network reads them: (T, B, D)."""
    return torch.from_numpy(np.ascontiguousarray(windows.transpose(2, 0, 1)))


def _rms(values: np.ndarray) -> float:
    scale = float(np.abs(values).max()) or 1.0  # squares of small numbers leave float64
    return scale * math.sqrt(float(((values / scale) ** 2).mean()))
