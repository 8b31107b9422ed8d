"""Time-series forecasting: learn from a `Series` to forecast one column some rows ahead.

Scaling and model selection use only the training rows.
Shapes: N rows, D input columns, T rows of a window, B windows of a batch, H hidden size.
"""

import contextlib
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional

from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.forecast.settings import Settings
from charrnn.forecast.table import Series
from charrnn.headers import parse, to_json
from charrnn.network.cells import layer_shapes
from charrnn.network.char_rnn import MODULES, Layer
from charrnn.network.optimizer import Optimizer

MODEL = "forecast.safetensors"
BATCH = 1 << 16  # most rows per step; if all windows together have more, each step draws a random batch
CLIP = 1.0  # largest norm of the gradient (gradient clipping)
CHECK = 0.2  # fraction of the training rows, at their end, used to select the best step (early stopping)
SURE = 2.0  # standard errors from which a forecast counts as better than the naive one


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything of a forecaster but its weights. Raises: ValueError if it is inconsistent."""

    columns: list[str]  # names of the inputs
    target: str
    low: list[float]  # minimum of each input and, last, of the target over the training rows
    span: list[float]  # maximum - minimum; scales inputs to 0..1
    change: float  # unit of the network's output, which is the change of the target
    settings: Settings

    def __post_init__(self) -> None:
        if not 0 < len(self.columns) == len(self.low) - 1 == len(self.span) - 1:
            raise ValueError("its columns and scaling don't fit together")
        if min(self.span) <= 0 or self.change <= 0:
            raise ValueError("its scaling divides by what is not above 0")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Errors of forecasts, in the target's units. The naive forecast is the target's present value."""

    rows: int
    rmse: float
    naive_rmse: float
    mae: float
    naive_mae: float
    span: float  # of the target over the training rows; scaled errors are divided by it
    sureness: float  # standard errors by which the squared error is below the naive one's (Diebold & Mariano 1995)

    @property
    def verdict(self) -> str:
        """A sentence that says whether the network is better than the naive forecast."""
        if not self.rmse < self.naive_rmse:
            return "the network is no better than the naive forecast"
        gain = f"the network's RMSE is {1 - self.rmse / self.naive_rmse:.1%} below that of the naive forecast"
        return gain if self.sureness >= SURE else gain + ", which may be chance"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Set torch's number of threads to one, so that results are the same on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Forecaster(nn.Module):
    """Stacked recurrent layers over the T rows of a window, and a linear head on the last output.

    The output is the change of the target, in units of `change`. So the untrained network is the naive forecast, and a
    trained one can follow a trend beyond the range of the training rows.
    """

    def __init__(self, header: Header):
        super().__init__()
        self.header = header
        self.settings = header.settings
        self.batch = max(BATCH // self.settings.window, 1)  # windows per step, at most
        self.kept = 0  # the step of these weights
        D, H = len(header.columns), self.settings.hidden_size
        layers = [MODULES[self.settings.cell](H if i else D, H) for i in range(self.settings.num_layers)]
        self.layers: list[Layer] = nn.ModuleList(layers)  # type: ignore  # mypy sees a list
        self.head = nn.Linear(H if layers else D, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @classmethod
    @one_thread()
    def create(cls, series: Series, settings: Settings) -> "Forecaster":
        """Make an untrained network, scaled by the training rows of `series`. Raises: CharrnnError if there are too few."""
        training = settings.training_rows(len(series))
        windows = settings.window + settings.horizon - 1
        if training <= windows or (settings.validation and len(series) == training):
            need = f"a window of {settings.window} and a horizon of {settings.horizon} need at least {windows + 1}"
            found = f"{need} to learn from, and {len(series) - training} are held out"
            raise CharrnnError(f"too few rows ({len(series)}): {found}")
        rows = _scored(series, settings, first=0, end=training)
        if not len(rows):
            raise CharrnnError(f"column {series.target_name} has no values in the {training} training rows")
        values = np.column_stack([series.inputs, series.target])[:training]
        low, high = values.min(0), values.max(0)
        constant = high - low <= 1e-12 * np.maximum(np.abs(low), np.abs(high))  # up to rounding
        span = np.where(constant, 1.0, high - low)
        change = _rms(series.target[rows] - series.target[rows - settings.horizon]) or 1.0
        torch.manual_seed(settings.seed)
        scaling = {"low": low.tolist(), "span": span.tolist(), "change": change}
        return cls(Header(columns=series.columns, target=series.target_name, settings=settings, **scaling))

    def forward(self, x: Tensor) -> Tensor:
        """Map scaled windows (T, B, D) to changes of the target (B,), in units of `change`."""
        x = 4 * x - 2  # from 0..1 to the range in which tanh and sigmoid are nonlinear
        for i, layer in enumerate(self.layers):
            out = layer(x)[0]  # (T, B, H)
            x = x + out if i else out
        changes: Tensor = self.head(x[-1])  # (B, 1)
        return changes[:, 0]

    def learn(self, series: Series) -> Iterator[int]:
        """Train with Adam on all windows of the training rows or, if there are too many, on a random batch per step.

        At the end the network has the weights of the step with the lowest error on the last CHECK of the training rows. These
        rows are not trained on, unless there are no others.

        Yields: the number of each step. Raises: CharrnnError (status 1) if the loss diverges.
        """
        with one_thread():
            yield from self._learn(series)

    def _learn(self, series: Series) -> Iterator[int]:
        settings = self.settings
        training = settings.training_rows(len(series))
        rows = _scored(series, settings, first=0, end=training)
        learned = rows < training - round(training * CHECK)
        learned |= not learned.any()
        windows = self._windows(series)
        check_x, check_y = self._pairs(windows, series, rows=rows[~learned][-self.batch :])
        best = float(check_y.square().mean())  # error of step 0, the naive forecast; NaN without rows to check
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
                raise CharrnnError(f"the loss diverged at step {step}; use a smaller --learning-rate", 1)
            with torch.no_grad():
                found = functional.mse_loss(self(check_x), check_y).item() if len(check_y) else math.nan
            if not found >= best:  # true for NaN: the last step is then kept
                best, weights, self.kept = found, deepcopy(self.state_dict()), step
            yield step
        self.load_state_dict(weights)

    @one_thread()
    @torch.no_grad()
    def forecast(self, series: Series) -> np.ndarray:
        """Forecast the target: (N + horizon,) float64, at row r from the window that ends at row r - horizon.

        The first rows, which have no window, are NaN; the last `horizon` are beyond the table.
        Raises: CharrnnError if there are fewer rows than a window has.
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
        """Score the forecasts (N + horizon,) of rows from `first` on; None if the target is missing in all of them."""
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
        """The output of `--json` for the forecasts (N + horizon,) of rows from `first` on."""
        facts: dict[str, str | float] = {"target": self.header.target, "horizon": self.settings.horizon, "rows": len(series)}
        facts |= {"forecast": float(forecasts[-1]), "naive_forecast": float(series.target[-1])}
        scores = self.score(series, forecasts, first=first)
        if scores is None:
            return facts | {"scored_rows": 0}
        errors = {name: value for name, value in vars(scores).items() if name.endswith(("rmse", "mae"))}
        scaled = {f"scaled_{name}": error / scores.span for name, error in errors.items()}
        return facts | {"scored_rows": scores.rows} | errors | scaled | {"verdict": scores.verdict}

    def lines(self, series: Series, forecasts: np.ndarray, first: int) -> tuple[list[str], list[list[float]]]:
        """The dates of rows from `first` on ("+1"... beyond the table), and [truth, forecast, naive forecast]; NaN: missing."""
        horizon = self.settings.horizon
        first = max(first, self.settings.window + horizon - 1)
        truth = np.concatenate([np.where(series.known, series.target, np.nan), np.full(horizon, np.nan)])
        moments = [*series.moments[first:], *(f"+{k}" for k in range(1, horizon + 1))]
        return moments, [truth[first:].tolist(), forecasts[first:].tolist(), series.target[first - horizon :].tolist()]

    def _pairs(self, windows: np.ndarray, series: Series, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets to forecast `rows` (B,): windows (T, B, D), and changes of the target (B,)."""
        now = rows - self.settings.horizon
        change = (series.target[rows] - series.target[now]) / self.header.change
        return _gather(windows[now - self.settings.window + 1]), torch.from_numpy(change.astype(np.float32))

    def _windows(self, series: Series) -> np.ndarray:
        """All windows of the scaled inputs, (N - T + 1, D, T) float32, as a view."""
        scaled = (series.inputs - np.array(self.header.low[:-1])) / np.array(self.header.span[:-1])
        bounded = np.clip(scaled, -checkpoint.LARGEST, checkpoint.LARGEST).astype(np.float32)
        return sliding_window_view(bounded, self.settings.window, axis=0)

    def save(self, folder: Path) -> None:
        """Write the model to `folder`. Raises: CharrnnError (status 1) if it can't be written."""
        tensors = {name: tensor.numpy() for name, tensor in self.state_dict().items()}
        checkpoint.write(folder / MODEL, tensors, {"forecast": to_json(self.header)})

    @classmethod
    def load(cls, path: str | Path) -> "Forecaster":
        """Read a model written by `save`, from its folder or file. Raises: CharrnnError if it is not such a file."""
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
    """The rows in [first, end) that have a window and a known target."""
    first = max(first, settings.window + settings.horizon - 1)
    return first + series.known[first:end].nonzero()[0]


def _gather(windows: np.ndarray) -> Tensor:
    """Convert windows (B, D, T) to the network's input (T, B, D)."""
    return torch.from_numpy(windows.transpose(2, 0, 1).copy())  # a view of all rows could not be written to


def _rms(values: np.ndarray) -> float:
    scale = float(np.abs(values).max()) or 1.0  # squares could underflow or overflow float64
    return scale * math.sqrt(float(((values / scale) ** 2).mean()))
