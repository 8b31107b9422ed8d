"""Numbers in time: given a `Series`, a row of numbers for each moment, it learns to forecast one of them some rows ahead.

All that is chosen, the scaling too, comes from the training rows alone. It knows no characters and prints nothing.
Letters: N rows, D input columns, T rows of a window, B windows, H hidden size.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional

from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.forecast.table import Series
from charrnn.network.char_rnn import MODULES
from charrnn.network.optimizer import Optimizer

MODEL = "forecast.safetensors"
BATCH = 1 << 16  # rows at most that a step reads; where all windows have more, each step draws some
CLIP = 1.0  # the largest norm of the gradient
CHECK = 0.2  # the share of the training rows, the last ones, on which each step's weights are checked
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
        for name, most in (("window", 65536), ("horizon", 65536), ("layers", 16), ("hidden_size", 1024), ("steps", 10**9)):
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
class Progress:
    """Where the learning stands."""

    step: int
    steps: int
    loss: float  # mean squared error on the rows learned from, in squared units of `Forecaster.change`


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
    def verdict(self) -> str:
        """Whether the network is worth its trouble, as a sentence."""
        if not self.rmse < self.naive_rmse:
            return "the network is no better than the naive forecast"
        gain = f"the network's RMSE is {1 - self.rmse / self.naive_rmse:.1%} below that of the naive forecast"
        return gain if self.sureness >= SURE else gain + ", no more than chance may give"


class Forecaster(nn.Module):
    """Stacked cells that read the T rows of a window, and a linear head on their last state.

    The head says by how much the target changes, in units of `change`, so that the untrained network is the naive
    forecast: the target stays as it is. A trend that leaves the range of the training rows is then no trouble either.
    `low` and `span` scale the D inputs and, last, the target to 0..1 over the training rows.
    """

    def __init__(self, settings: Settings, columns: list[str], target: str, low: list[float], span: list[float], change: float):
        super().__init__()
        self.settings, self.columns, self.target, self.low, self.span, self.change = (
            settings,
            columns,
            target,
            low,
            span,
            change,
        )
        self.kept = 0  # the step whose weights these are
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
                f"too few rows ({len(series)}): a window of {settings.window} and a horizon of {settings.horizon} take "
                f"at least {windows + 1} to learn from, and {len(series) - training} are held out"
            )
        rows = _scored(series, settings, 0, training)
        if not len(rows):
            raise CharrnnError(f"the {training} training rows hold no value of {series.target_name} to learn")
        low, span = _scaling(np.column_stack([series.inputs, series.target])[:training])
        change = _rms(series.target[rows] - series.target[rows - settings.horizon])
        torch.manual_seed(settings.seed)
        return cls(settings, series.columns, series.target_name, low, span, change or 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled windows (T, B, D) to changes of the target (B), in units of `change`."""
        x = 4 * x - 2  # 0..1 to the range in which the cells' functions bend
        for i, layer in enumerate(self.layers):
            out = layer(x)[0]  # (T, B, H)
            x = x + out if i else out
        changes: Tensor = self.head(x[-1])  # (B, 1)
        return changes[:, 0]

    def learn(self, series: Series) -> Iterator[Progress]:
        """Learn the training rows by Adam on all windows at once (where they are many, on some drawn anew at each step).

        The weights of the step that forecasts the last CHECK of the training rows best are kept; those rows are not
        learned from, if that leaves any to learn. Raises: CharrnnError (status 1) where the loss diverges.
        """
        settings, parameters = self.settings, list(self.parameters())
        training = training_rows(len(series), settings)
        rows = _scored(series, settings, 0, training)
        learned = rows < training - round(training * CHECK)
        if not learned.any() or learned.all():
            learned[:] = True
        windows, batch = self._windows(series), self._batch()
        x, y = self._pairs(windows, series, rows[~learned][-batch:])
        best, weights = float(y.square().mean()), self._weights()  # of step 0, the naive forecast; NaN where none are checked
        check = (x, y) if len(y) else None
        rows = rows[learned]
        optimizer, generator = Optimizer([], parameters), torch.Generator().manual_seed(settings.seed)
        for step in range(1, settings.steps + 1):
            if len(rows) > batch:
                x, y = self._pairs(windows, series, rows[torch.randint(len(rows), (batch,), generator=generator).numpy()])
            elif step == 1:
                x, y = self._pairs(windows, series, rows)
            loss = functional.mse_loss(self(x), y)
            self.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step(step, settings.learning_rate, 0.0)
            if not math.isfinite(loss.item()):
                raise CharrnnError(f"the loss diverged at step {step}; take a smaller --learning-rate", 1)
            with torch.no_grad():
                found = functional.mse_loss(self(check[0]), check[1]).item() if check else -step  # unchecked: the last is best
            if not found >= best:
                best, weights, self.kept = found, self._weights(), step
            yield Progress(step, settings.steps, loss.item())
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
        windows, batch = self._windows(series), self._batch()
        parts = [self(_gather(windows[i : i + batch])) for i in range(0, len(windows), batch)]
        forecasts = np.full(len(series) + horizon, np.nan)
        forecasts[T - 1 + horizon :] = series.target[T - 1 :] + torch.cat(parts).double().numpy() * self.change
        return forecasts

    def score(self, series: Series, forecasts: np.ndarray, first: int) -> Scores | None:
        """Hold the forecasts (N + horizon) of the rows from `first` on to what came; None where there is no such row.

        `sureness` is the statistic of Diebold & Mariano (1995) for squared errors.
        """
        horizon = self.settings.horizon
        rows = _scored(series, self.settings, first, len(series))
        if not len(rows):
            return None
        span, truth = self.span[-1], series.target[rows]
        error, simple = ((made - truth) / span for made in (forecasts[rows], series.target[rows - horizon]))
        gain = simple**2 - error**2
        centred, n = gain - gain.mean(), len(gain)
        lags = range(1, min(horizon, n))  # forecasts that overlap err together
        variance = float(centred @ centred + 2 * sum(centred[k:] @ centred[:-k] for k in lags)) / n
        if variance <= 0:
            variance = float(centred @ centred) / n
        sureness = float(gain.mean()) / math.sqrt(variance / n) if variance > 0 else 0.0
        mae, naive_mae = (float(np.abs(e).mean()) * span for e in (error, simple))
        return Scores(n, _rms(error) * span, _rms(simple) * span, mae, naive_mae, span, sureness)

    def report(self, series: Series, forecasts: np.ndarray, first: int) -> dict[str, Any]:
        """All that there is to say about the forecasts (N + horizon) of the rows from `first` on, by name."""
        facts = {
            "target": self.target,
            "horizon": self.settings.horizon,
            "rows": len(series),
            "forecast": float(forecasts[-1]),
            "naive_forecast": float(series.target[-1]),
        }
        scores = self.score(series, forecasts, first)
        if scores is None:
            return facts | {"scored_rows": 0}
        errors = {name: getattr(scores, name) for name in ("rmse", "naive_rmse", "mae", "naive_mae")}
        scaled = {f"scaled_{name}": error / scores.span for name, error in errors.items()}
        return facts | {"scored_rows": scores.rows} | errors | scaled | {"verdict": scores.verdict}

    def lines(self, series: Series, forecasts: np.ndarray, first: int) -> tuple[list[str], list[list[float]]]:
        """The moments of the rows from `first` on, and truth, forecasts and naive forecasts; NaN where there is none.

        The moments beyond the table are "+1", "+2" and so on.
        """
        horizon = self.settings.horizon
        first = max(first, self.settings.window + horizon - 1)
        beyond = np.full(horizon, np.nan)
        truth = np.concatenate([np.where(series.known, series.target, np.nan), beyond])
        moments = [*series.moments[first:], *(f"+{k}" for k in range(1, horizon + 1))]
        return moments, [truth[first:].tolist(), forecasts[first:].tolist(), series.target[first - horizon :].tolist()]

    def _pairs(self, windows: np.ndarray, series: Series, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Of all `windows` those (T, B, D) that forecast `rows` (B), and by how much the target changes up to them (B)."""
        now = rows - self.settings.horizon
        change = (series.target[rows] - series.target[now]) / self.change
        return _gather(windows[now - self.settings.window + 1]), torch.from_numpy(change.astype(np.float32))

    def _windows(self, series: Series) -> np.ndarray:
        """Every window of the scaled inputs: (N - T + 1, D, T) float32, a view."""
        scaled = (series.inputs - np.array(self.low[:-1])) / np.array(self.span[:-1])
        bounded = np.clip(scaled, -checkpoint.LARGEST, checkpoint.LARGEST).astype(np.float32)
        return sliding_window_view(bounded, self.settings.window, axis=0)

    def _batch(self) -> int:
        return max(BATCH // self.settings.window, 1)

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.state_dict().items()}

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
            low, span = ([checkpoint.number(value) for value in facts[key]] for key in ("low", "span"))
            settings, change = checkpoint.typed(Settings, facts["settings"]), checkpoint.number(facts["change"])
            if not isinstance(facts["target"], str):
                raise TypeError("its target is no name")
            if not 0 < len(columns) == len(facts["columns"]) == len(low) - 1 == len(span) - 1:
                raise ValueError("its columns and scaling don't fit together")
            if min(span) <= 0 or change <= 0:
                raise ValueError("its scaling divides by what is not above 0")
            expected = _shapes(settings, len(columns))  # before anything of that size is allocated
            if {name: tensor.shape for name, tensor in tensors.items()} != expected:
                raise ValueError("its tensors are not those of its settings")
            if not all(t.dtype == np.float32 and checkpoint.sound(t) for t in tensors.values()):
                raise ValueError("its tensors are not float32, or hold numbers that are not finite")
            model = cls(settings, columns, facts["target"], low, span, change)
        except (KeyError, TypeError, ValueError, CharrnnError) as error:
            raise CharrnnError(f"{path} is not a usable forecast model: {error}") from None
        model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
        return model


def training_rows(rows: int, settings: Settings) -> int:
    """How many of so many rows, the first ones, are learned from."""
    return rows - round(rows * settings.validation)


def _scaling(values: np.ndarray) -> tuple[list[float], list[float]]:
    """For each column of (N, D) its least value and its span; 1 where it is constant but for rounding."""
    low, high = values.min(0), values.max(0)
    span = np.where(high - low > 1e-12 * np.maximum(np.abs(low), np.abs(high)), high - low, 1.0)
    return low.tolist(), span.tolist()


def _scored(series: Series, settings: Settings, first: int, end: int) -> np.ndarray:
    """The rows from `first` to before `end` that a window reaches and whose target is known."""
    first = max(first, settings.window + settings.horizon - 1)
    return first + series.known[first:end].nonzero()[0]


def _gather(windows: np.ndarray) -> Tensor:
    """Windows (B, D, T) as the network reads them: (T, B, D)."""
    return torch.from_numpy(np.ascontiguousarray(windows.transpose(2, 0, 1)))


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
    scale = float(np.abs(values).max()) or 1.0  # squares of small numbers leave float64
    return scale * math.sqrt(float(((values / scale) ** 2).mean()))
