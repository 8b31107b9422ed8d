"""`charrnn forecast`: reading tables, training, forecasts and their scores."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CORPORA, DATA, charrnn, start

from charrnn import checkpoint, cli
from charrnn.errors import CharrnnError
from charrnn.forecast.forecaster import MODEL, Forecaster, Settings
from charrnn.forecast.table import Series, draw_plot, read_series

TIDE = CORPORA / "tide.csv"
QUICK = Settings(steps=30, seed=3)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def series_of(target, *others):
    target = np.asarray(target, dtype=np.float64)
    inputs = np.column_stack([target, *others])
    names, moments = [str(i) for i in range(inputs.shape[1])], [str(i) for i in range(len(target))]
    return Series(
        columns=names,
        inputs=inputs,
        target_name="0",
        target=target,
        known=np.ones(len(target), bool),
        moment="line",
        moments=moments,
        notes=[],
    )


def learn(series, settings):
    """A trained network, its forecasts, and their scores over the held-out rows."""
    network = Forecaster.create(series, settings)
    list(network.learn(series))
    forecasts = network.forecast(series)
    return network, forecasts, network.score(series, forecasts, settings.training_rows(len(series)))


def read(tmp_path, text, **options):
    (tmp_path / "t.csv").write_text(text)
    return read_series(tmp_path / "t.csv", **options)


@pytest.fixture
def forecast(tmp_path, monkeypatch, capsys):
    """Run the program in this process, given arguments and standard input. Returns: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the tests' own Ctrl-C stays theirs

    def run(*arguments, pipe=b""):
        monkeypatch.setattr(sys, "argv", ["charrnn", "forecast", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pipe)))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return run


# What it learns


def test_the_lecture_s_stock_prices_are_forecast_within_three_hundredths():
    path = DATA / "stock_daily.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    series = read_series(path, "Close", reverse=True)
    assert series.columns == ["Open", "High", "Low", "Volume", "Close"]
    assert len(series) == 732
    assert series.target[-1] == 831.659973
    _, _, scores = learn(series, Settings())
    assert scores.rows == 220
    assert scores.rmse / scores.span < 0.03  # scaled on the training rows
    assert scores.rmse / np.ptp(series.target) < 0.03  # scaled on all rows, as the lecture did
    assert scores.rmse < 1.01 * scores.naive_rmse


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("gru", 1), ("rnn", 2)])
def test_a_noisy_sine_is_forecast_better_than_the_naive_way(cell, layers):
    t = np.arange(600)
    series = series_of(np.sin(t / 8) + 0.1 * np.random.default_rng(0).standard_normal(600))
    _, _, scores = learn(series, Settings(cell=cell, num_layers=layers, steps=300))
    assert scores.rmse < 0.9 * scores.naive_rmse  # the noise alone makes 0.6
    assert scores.sureness > 2
    assert scores.verdict.endswith("% below that of the naive forecast")


def test_a_linear_head_alone_learns_an_autoregression_to_its_noise():
    noise = np.random.default_rng(1).standard_normal(2000)
    values = [0.0]
    for e in noise[1:]:
        values.append(0.5 * values[-1] + e)
    _, _, scores = learn(series_of(values), Settings(num_layers=0))
    best = 1 / np.sqrt(2 / (1 + 0.5))  # of the noise (1) to the naive forecast's sqrt(2 variance (1 - 0.5))
    assert abs(scores.rmse / scores.naive_rmse - best) < 0.03


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_walk_is_not_said_to_be_forecast(seed):
    walk = np.cumsum(np.random.default_rng(seed).standard_normal(600))
    _, _, scores = learn(series_of(walk), Settings(seed=seed, steps=150))
    assert "no better" in scores.verdict or "chance" in scores.verdict


def test_a_column_that_leads_by_three_rows_is_used_three_rows_ahead():
    leader = np.random.default_rng(2).standard_normal(400)
    follower = np.concatenate([np.zeros(3), leader[:-3]])
    _, _, scores = learn(series_of(follower, leader), Settings(horizon=3, steps=300))
    assert scores.rmse < 0.3 * scores.naive_rmse


# What it may not know


def test_future_rows_move_no_earlier_forecast_and_no_scaling_by_one_bit():
    rng = np.random.default_rng(4)
    series = series_of(np.cumsum(rng.standard_normal(200)), rng.standard_normal(200))
    network, forecasts, _ = learn(series, QUICK)
    for row in (141, 160, 199):  # of the held-out rows, 140 to 199
        inputs, target = series.inputs.copy(), series.target.copy()
        inputs[row:] = 1e6 * rng.standard_normal((200 - row, 2))
        target[row:] = inputs[row:, 0]
        other, changed, _ = learn(replace(series, inputs=inputs, target=target), QUICK)
        assert (other.header, other.kept) == (network.header, network.kept)
        assert changed[:row].tobytes() == forecasts[:row].tobytes()  # row's own is made from the rows before it
        assert changed[row] == forecasts[row]
        assert (changed[row + 1 :] != forecasts[row + 1 :]).all()


def test_a_forecast_sees_the_rows_of_its_window_and_no_others():
    rng = np.random.default_rng(5)
    settings = replace(QUICK, window=4, horizon=2)
    series = series_of(rng.standard_normal(60))
    network, forecasts, _ = learn(series, settings)
    for row in range(60):
        inputs, target = series.inputs.copy(), series.target.copy()
        inputs[row] += 0.5
        target[row] += 0.5
        moved = network.forecast(replace(series, inputs=inputs, target=target)) != forecasts
        moved &= ~np.isnan(forecasts)
        assert set(moved.nonzero()[0]) == {r for r in range(row + 2, row + 6) if 5 <= r < 62}


def test_a_seed_repeats_a_forecast_and_another_gives_another():
    series = series_of(np.sin(np.arange(100) / 3))
    first, again, other = (learn(series, replace(QUICK, seed=seed))[1] for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_the_step_that_forecasts_the_last_training_rows_best_is_kept():
    series = series_of(np.random.default_rng(6).standard_normal(100).cumsum())
    network = Forecaster.create(series, Settings(steps=80, learning_rate=0.03))
    made = [network.forecast(series), *(network.forecast(series) for _ in network.learn(series))]
    errors = [np.square(forecasts[56:70] - series.target[56:70]).mean() for forecasts in made]
    assert network.kept == np.argmin(errors) < 80
    assert network.forecast(series).tobytes() == made[network.kept].tobytes()


def test_the_figures_are_those_of_the_definition():
    series = series_of([1, 2, 4, 7, 11, 16, 22, 29, 37, 46])
    network = Forecaster.create(series, Settings(window=2, horizon=2, validation=0.4))
    forecasts = network.forecast(series)
    assert np.isnan(forecasts[:3]).all()
    assert forecasts[3:].tolist() == [2, 4, 7, 11, 16, 22, 29, 37, 46]  # untrained, it is the naive one
    scores = network.score(series, forecasts + np.where(np.arange(12) % 2, 3, 4), 6)
    errors = [4 - 11, 3 - 13, 4 - 15, 3 - 17]  # rows 6 to 9
    assert scores.rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert scores.mae == 10.5
    assert scores.naive_mae == 14
    assert scores.span == 15  # 1 to 16, the training rows
    assert scores.rows == 4


def test_a_trend_beyond_the_training_range_is_still_followed():
    _, _, scores = learn(series_of(2.0 * np.arange(300)), Settings(steps=300))
    assert scores.rmse < 0.1 * scores.naive_rmse


def test_more_windows_than_a_batch_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr("charrnn.forecast.forecaster.BATCH", 16 * 7)
    series = series_of(np.sin(np.arange(200) / 3))
    first, again = (learn(series, Settings(steps=200)) for _ in range(2))
    assert first[1].tobytes() == again[1].tobytes()
    assert first[2].rmse < 0.5 * first[2].naive_rmse


# Tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t", ", "])
def test_every_delimiter_gives_the_same_table(tmp_path, delimiter):
    text = "# a comment\nday,a,b\n2024-01-01,1,10\n# more\n\n2024-01-02,2,20.5\n2024-01-03,-3,3e1\n".replace(",", delimiter)
    series = read(tmp_path, text)
    assert series.columns == ["a", "b"]
    assert series.inputs.tolist() == [[1, 10], [2, 20.5], [-3, 30]]
    assert (series.target_name, series.target.tolist()) == ("b", [10, 20.5, 30])
    assert (series.moment, series.moments) == ("day", ["2024-01-01", "2024-01-02", "2024-01-03"])


def test_names_come_from_the_first_row_or_the_comment_above_it_or_are_numbers(tmp_path):
    assert read(tmp_path, "a,b\n1,2\n").columns == ["a", "b"]
    assert read(tmp_path, '"a, with b",c\r\n"1","2"\r\n').columns == ["a, with b", "c"]
    assert read(tmp_path, "# http://x?y=1\n# Open,Close\n1,2\n3,4\n").columns == ["Open", "Close"]
    assert read(tmp_path, "# only one remark\n1,2\n3,4\n").columns == ["1", "2"]
    assert read(tmp_path, "2024-01-01,1\n2024-01-02,2\n").moments == ["2024-01-01", "2024-01-02"]
    assert read(tmp_path, '"a; b",c\n1,2\n').columns == ["a; b", "c"]
    assert read(tmp_path, "\ufeffa,b\n1,2\n").columns == ["a", "b"]


def test_columns_are_named_or_counted_and_the_target_need_not_be_read(tmp_path):
    series = read(tmp_path, "a,b,c\n1,2,3\n4,5,6\n", target="1", columns=["c", "2", "c"])
    assert series.columns == ["c", "b"]
    assert series.inputs.tolist() == [[3, 2], [6, 5]]
    assert series.target.tolist() == [1, 4]


def test_reverse_puts_the_oldest_row_first(tmp_path):
    series = read(tmp_path, "date,a\n3 Mar 2024,3\n2 Mar 2024,2\n1 Mar 2024,1\n", reverse=True)
    assert series.target.tolist() == [1, 2, 3]
    assert read(tmp_path, "a\n3\n2\n1\n", reverse=True).moments == ["4", "3", "2"]


def test_missing_values_are_carried_on_counted_and_never_scored(tmp_path):
    series = read(tmp_path, "a,b\n,1\n5,\n6,2\nNaN,n/a\n8,3\n")
    assert series.inputs.tolist() == [[5, 1], [6, 2], [6, 2], [8, 3]]
    assert series.known.tolist() == [False, True, False, True]
    assert series.notes == [
        "rows skipped at the start, where some column has no value yet: 1",
        "missing values: 1 in a, 2 in b; each is replaced by the value before it",
    ]
    target = np.arange(40.0)
    series = replace(series_of(target), known=np.arange(40) % 2 == 0)
    _, _, scores = learn(series, QUICK)
    assert scores.rows == 6


def test_text_and_dates_are_no_inputs(tmp_path):
    series = read(tmp_path, "who,when,x,y\nann,01/02/2024,1,2\nbob,14/02/2024,2,3\n")
    assert series.columns == ["x", "y"]
    assert series.moment == "when"
    assert series.notes == ["column who has no numbers and is skipped"]
    assert read(tmp_path, "timestamp,x\n10,1\n20,2\n").columns == ["x"]
    series = read(tmp_path, "day,x,expires\n2024-01-01,1,2025-01-09\n2024-01-02,2,2025-01-01\n")
    assert (series.moment, series.columns) == ("day", ["x"])  # only the first date column says in which order rows are


@pytest.mark.parametrize(
    "days",
    ["01/02/2024 02/02/2024 03/02/2024 13/02/2024", "02/01/2024 02/02/2024 02/03/2024", "03/01/2024 01/02/2024 02/03/2024"],
)
def test_days_and_months_are_read_in_the_way_that_is_in_order(tmp_path, days):
    assert read(tmp_path, "day,x\n" + "".join(f"{day},1\n" for day in days.split())).moments == days.split()


WRITTEN = {  # the cells of a column, and their numbers
    "decimal commas": ("100,94 99,5 -1 0,25", [100.94, 99.5, -1, 0.25]),
    "thousands": ("5,041.81 999.5 -12,345.00", [5041.81, 999.5, -12345]),
    "millions": ("1,348 2,000,000", [1348, 2e6]),
    "points for thousands": ("1.348 2.125,5 1.234.567", [1348, 2125.5, 1234567]),
    "points for millions alone": ("1.348 1.234.567", [1348, 1234567]),
    "three decimals beside two": ("1,348 12,5", [1.348, 12.5]),
    "three decimals below one": ("1,348 0,125", [1.348, 0.125]),
    "thousands beside a decimal point": ("1,348 870.5", [1348, 870.5]),
    "thousands beside hundreds": ("1,348 870 5", [1348, 870, 5]),
    "thousands of dollars beside hundreds": ("$1,348 $870", [1348, 870]),
    "Indian groups": ("12,34,567 1,348", [1234567, 1348]),
    "Swiss groups": ("12'345.5 1’348", [12345.5, 1348]),
    "spaces": ("12\u00a0345,5 1\u202f348 7", [12345.5, 1348, 7]),
    "dollars": ("$78.24 -$1.5 $-2 3", [78.24, -1.5, -2, 3]),
    "a point of three decimals": ("$3.459 $2.899", [3.459, 2.899]),
    "euros": ("78,24\u00a0€ -1,5€ 1.000,00€", [78.24, -1.5, 1000]),
    "US dollars": ("US$5 US$1,234.5", [5, 1234.5]),
    "codes": ("USD\u00a05 6USD 7", [5, 6, 7]),
    "percent": ("0.25% -1.5% 3\u00a0%", [0.25, -1.5, 3]),
    "K, M and B": ("950 1.2K 75.34M 2B 3k 4bn", [950, 1200, 75340000, 2e9, 3000, 4e9]),
    "M with a comma": ("75,34M 1.250,5K", [75340000, 1250500]),
    "brackets and other minus signs": ("(5.25) −3 4- +1 ($2)", [-5.25, -3, -4, 1, -2]),
    "missing": ("$5 - n/a $6", [5, 5, 5, 6]),
    "plain": ("1e3 .5 5. 1_000 -0", [1000, 0.5, 5, 1000, 0]),
    "exponents": ("1,5e3 2,25e-1", [1500, 0.225]),
}  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("case", WRITTEN)
def test_numbers_are_read_as_people_write_them(tmp_path, case, delimiter):
    cells, expected = WRITTEN[case]
    rows = "".join(f'1{delimiter}"{cell}"\n' for cell in cells.split(" "))
    series = read(tmp_path, f"a{delimiter}b\n{rows}")
    assert series.target_name == "b"
    assert series.target.tolist() == expected


HEADED = {  # a table, its columns, the values of the last one, its notes
    "the decimal comma of a bank": (
        "Datum;Schluss;Volumen\n31.12.2020;100,94;1.348.000\n04.01.2021;99,5;870.000\n",
        ["Schluss", "Volumen"],
        [1348000, 870000],
        ["column Schluss: '100,94' is read as 100.94", "column Volumen: '1.348.000' is read as 1348000"],
    ),
    "points beside decimal commas": (
        "a;b\n0,5;1.348\n1;870\n",
        ["a", "b"],
        [1348, 870],
        ["column a: '0,5' is read as 0.5", "column b: '1.348' is read as 1348"],
    ),
    "decimals beside decimal commas": (
        "a;b\n0,5;1.34\n1;2.125\n",
        ["a", "b"],
        [1.34, 2.125],
        ["column a: '0,5' is read as 0.5"],
    ),
    "Excel's first line": ("sep=;\na;b\n1;2\n3;4\n", ["a", "b"], [2, 4], []),
    "Excel's first line in quotes": ('"sep=|"\na|b\n1|2\n3|4\n', ["a", "b"], [2, 4], []),
    "Excel's first line, a tab": ("SEP=\t\na;c\tb\n1\t2\n3\t4\n", ["a;c", "b"], [2, 4], []),
    "units": (
        "day,a,b\n,°C,m³/s\n2024-01-01,1,2\n2024-01-02,3,4\n",
        ["a", "b"],
        [2, 4],
        ["line 2: no numbers; skipped as part of the header"],
    ),
    "names over three rows": (
        "Price,Close,Volume\nTicker,AAPL,AAPL\nDate,,\n2024-01-02,1,2\n2024-01-03,3,4\n",
        ["Close", "Volume"],
        [2, 4],
        ["lines 2 to 3: no numbers; skipped as part of the header"],
    ),
    "no header": (
        "2024-01-01,$1,$2\n2024-01-02,$3,$4\n",
        ["2", "3"],
        [2, 4],
        ["column 2: '$1' is read as 1", "column 3: '$2' is read as 2"],
    ),
    "names like numbers": ("Date,1M,3M\n2024-01-01,1,2\n2024-01-02,3,4\n", ["1M", "3M"], [2, 4], []),
    "text at the end": ("a,b,who\n1,2,ann\n3,4,bob 2\n", ["a", "b"], [2, 4], ["column who has no numbers and is skipped"]),
    "times of day": ("t,b\n10:00,2\n10:30,4\n", ["b"], [2, 4], ["column t has no numbers and is skipped"]),
}


@pytest.mark.parametrize("case", HEADED)
def test_tables_are_read_as_programs_write_them(tmp_path, case):
    text, columns, expected, notes = HEADED[case]
    series = read(tmp_path, text)
    assert series.columns == columns
    assert (series.target_name, series.target.tolist()) == (columns[-1], expected)
    assert series.notes == notes


DATED = [  # rising dates, as one kind of table has them
    "2024-01-01 10:00|2024-01-01 10:05|2024-01-02",
    "2024-01-01 9:00|2024-01-01 10:00|2024-01-01 24:00",
    "2024-01-01T10:00:00.5Z|2024-01-01T10:00:01Z",
    "2024-01-01 10:00:00-05:00|2024-01-01 09:30:00-06:00|2024-01-01 16:00 UTC",
    "31.12.2023 23:45|01.01.2024 00:15:30|02.01.2024 00:00",
    "31.12.23|01.01.24",
    "12/31/2023 11:30 PM|1/1/2024 12:30 AM|1/1/2024 1:00 AM|1/1/2024, 12:05 p.m.",
    "2019-06-01 12-AM|2019-06-01 01-AM|2019-06-01 12-PM|2019-06-01 04-PM",
    "Dec 31, 2023, 10:00|Jan 1, 2024, 09:00",
    "1949-01|1949-02|1949-12|1950-1",
    "01/1949|02/1949|01/1950",
    "1949M09|1949M10|1950M1",
    "Jan 1949|Feb 1949|Dec 1950",
    "January 1949|March 1949|May 1949",
    "Sep-19|Oct-19|Jan-20",
    "1949Q1|1949Q4|1950Q1",
    "1949-Q1|1949-Q4|1950-Q1",
    "Q1 1949|Q4 1949|Q1 1950",
    "2020-W05|2020-W53|2021-W01",
    "2020-W9|2020-W10|2020-W11",
    "2020W05|2020W06",
    "W05 2020|W06 2020",
]


@pytest.mark.parametrize("dates", DATED)
def test_dates_with_times_months_quarters_and_weeks_say_which_row_is_older(tmp_path, dates):
    moments = dates.split("|")
    rows = [f'"{moment}",{i}\n' for i, moment in enumerate(moments)]
    series = read(tmp_path, "when,x\n" + "".join(rows))
    assert (series.moment, series.moments, series.columns) == ("when", moments, ["x"])
    with pytest.raises(CharrnnError, match="column when run from new to old; add --reverse"):
        read(tmp_path, "when,x\n" + "".join(rows[::-1]))
    assert read(tmp_path, "when,x\n" + "".join(rows[::-1]), reverse=True).moments == moments


@pytest.mark.parametrize("values", [[5.0] * 30, [0.1 + 0.2, 0.3] * 15, [1e60, -1e60] * 15, [1e-300, 2e-300] * 15])
def test_constant_and_extreme_columns_give_finite_figures(values):
    _, forecasts, scores = learn(series_of(values), QUICK)
    assert np.isfinite(forecasts[7:]).all()
    assert np.isfinite([scores.rmse, scores.naive_rmse, scores.span, scores.sureness]).all()
    assert scores.span > 0


def test_a_constant_column_is_forecast_as_it_is():
    _, forecasts, scores = learn(series_of([5.0] * 30), QUICK)
    assert (forecasts[7:] == 5).all()
    assert scores.verdict == "the network is no better than the naive forecast"


ROWS = "".join(f"{i},{i * i % 7}\n" for i in range(30))
BAD = {
    "a missing file": ("", ["gone.csv"], "gone.csv does not exist"),
    "a folder": ("", ["."], ". is a folder"),
    "an empty file": ("", ["t.csv"], "empty"),
    "an empty pipe": ("", ["-"], "empty"),
    "comments alone": ("# nothing\n\n", ["t.csv"], "t.csv holds no rows"),
    "a header alone": ("a,b\n", ["t.csv"], "no rows"),
    "bytes": ("a\0b,1\n", ["t.csv"], "NUL"),
    "another encoding": (b"a,b\n\xff,1\n", ["t.csv"], "t.csv is not utf-8 at byte 4; name its --encoding, perhaps cp1252"),
    "a workbook": (b"PK\3\4" + bytes(26) + b"xl/workbook.xml", ["t.csv"], "t.csv is an Excel workbook; save it as CSV"),
    "UTF-16 without a mark": ("a,b\n1,2\n".encode("utf-16-le"), ["t.csv"], "--encoding utf-16-le reads it"),
    "text among numbers": ("a,b\n1,2\n3,many\n", ["t.csv"], "line 3, column b: 'many' is not a number"),
    "a decimal comma beside a point": ("a;b\n1;2.5\n1;3.5\n1;2,5\n", ["t.csv"], "column b: '2,5' is not a number; write 2.5"),
    "a comma that may mean two things": ("a;b\n1;1,348\n1;2,125\n", ["t.csv"], "column b: '1,348' can be 1348 or 1.348"),
    "the same in a table of commas": ('a,b\n1,"1,348"\n1,"12,125"\n', ["t.csv"], "column b: '1,348' can be 1348 or 1.348"),
    "a point beside decimal commas": ("a;b\n0,5;1.348\n1;2.125\n", ["t.csv"], "column b: '1.348' can be 1348 or 1.348"),
    "a last column with units": ("a,b\n1,2 kg\n1,3 kg\n", ["t.csv"], "line 2, column b: '2 kg' is not a number"),
    "a last column with text": ("a,b\n1,$5\n1,ask\n", ["t.csv"], "line 3, column b: 'ask' is not a number"),
    "groups of two digits": ('a,b\n1,"1,2,3"\n1,"4,5,6"\n', ["t.csv"], "line 2, column b: '1,2,3' is not a number"),
    "two currencies": ("a,b\n1,$5\n1,€6\n", ["t.csv"], "line 3, column b: '€6' has a different unit from '$5' above it"),
    "percent and shares": ("a,b\n1,5%\n1,0.05\n", ["t.csv"], "line 3, column b: '0.05' has a different unit from '5%'"),
    "a letter that may be metres": ("a,b\n1,5m\n1,6m\n", ["t.csv"], "line 2, column b: '5m' is not a number"),
    "a first line of Excel and no more": ("sep=;\n", ["t.csv"], "t.csv holds no rows"),
    "months, newest first": ("m,x\n1949-02,1\n1949-01,2\n", ["t.csv"], "column m run from new to old; add --reverse"),
    "quarters, newest first": ("q,x\n1949Q2,1\n1949Q1,2\n1948Q4,3\n", ["t.csv"], "add --reverse"),
    "weeks, newest first": ("w,x\n2021-W01,1\n2020-W53,2\n", ["t.csv"], "add --reverse"),
    "times, newest first": ("t,x\n01.02.2024 9:30,1\n01.02.2024 9:15,2\n", ["t.csv"], "add --reverse"),
    "a number too large": ("a,b\n1,2\n1,1e61\n", ["t.csv"], "line 3, column b: '1e61' is larger than 1e+60"),
    "infinity": ("a,b\n1,2\n1,inf\n", ["t.csv"], "line 3, column b: 'inf'"),
    "rows of unequal length": ("a,b\n1,2\n1,2,3\n", ["t.csv"], "line 3: 3 cells, but 2 in the first row"),
    "a quote that never ends": ('a,b\n1,"2\n1,2\n', ["t.csv"], "t.csv, line "),
    "no numbers": ("a,b\nx,y\nz,w\n", ["t.csv"], "no column of numbers"),
    "one row": ("a,b\n1,2\n", ["t.csv"], "too few rows (1): a window of 7"),
    "fewer rows than a window": (ROWS, ["t.csv", "--window", "25"], "too few rows (30): a window of 25"),
    "a horizon beyond the rows": (ROWS, ["t.csv", "--horizon", "15"], "a horizon of 15"),
    "a target that is not there": ("a,b\n" + ROWS, ["t.csv", "--target", "Close"], "no such column; the columns are a, b"),
    "a column that is not there": (ROWS, ["t.csv", "--columns", "1,3"], "--columns 3"),
    "no columns": (ROWS, ["t.csv", "--columns", ""], "--columns"),
    "a name that stands twice": ("a,a\n" + ROWS, ["t.csv", "--target", "a"], "several columns"),
    "a target of text": ("a,b\nx,1\ny,2\n", ["t.csv", "--target", "a"], "column a has no numbers"),
    "newest first": ("day,x\n2024-01-02,1\n2024-01-01,2\n", ["t.csv"], "add --reverse"),
    "oldest first and reverse": ("day,x\n2024-01-01,1\n2024-01-02,2\n", ["t.csv", "--reverse"], "leave --reverse out"),
    "days in no order": ("day,x\n2024-01-01,1\n2024-01-03,2\n2024-01-02,3\n", ["t.csv"], "not in order (line 4: 2024-01-02)"),
    "times in no order": ("time,x\n1,1\n3,2\n2,3\n", ["t.csv"], "not in order (line 4: 2)"),
    "no window": (ROWS, ["t.csv", "--window", "0"], "--window must be between 1 and 65536, not 0"),
    "no horizon": (ROWS, ["t.csv", "--horizon", "0"], "--horizon must be between 1 and 65536, not 0"),
    "negative layers": (ROWS, ["t.csv", "--layers", "-1"], "--layers must be between 0 and 16, not -1"),
    "no units": (ROWS, ["t.csv", "--hidden-size", "0"], "--hidden-size must be between 1 and 1024, not 0"),
    "no steps": (ROWS, ["t.csv", "--steps", "0"], "--steps must be between 1 and 1000000000, not 0"),
    "an unknown cell": (ROWS, ["t.csv", "--cell", "brain"], "--cell must be lstm, gru or rnn, not 'brain'"),
    "a learning rate of nan": (ROWS, ["t.csv", "--learning-rate", "nan"], "at most 10, not nan"),
    "all held out": (ROWS, ["t.csv", "--validation", "1"], "--validation must be at least 0 and below 1, not 1"),
    "held out of nan": (ROWS, ["t.csv", "--validation", "nan"], "at least 0 and below 1, not nan"),
    "a seed below 0": (ROWS, ["t.csv", "--seed", "-1"], "--seed must be between 0 and 9223372036854775807, not -1"),
    "nearly all held out": (ROWS, ["t.csv", "--validation", "0.9"], "too few"),
    "a folder that is a file": (ROWS, ["t.csv", "--out", "t.csv"], "--out t.csv is a file"),
    "a model there already": (ROWS, ["t.csv", "--out", "used"], "replace it with --force"),
    "a model that is none": (ROWS, ["t.csv", "--model", "t.csv"], "t.csv is a text, not a model"),
    "a model that is missing": (ROWS, ["t.csv", "--model", "gone"], "gone does not exist"),
    "a kept model with settings": (ROWS, ["t.csv", "--model", "used", "--window", "3"], "--model brings its own"),
    "a plot of no kind": (ROWS, ["t.csv", "--plot", "plot.xls"], ".png, .svg or .pdf"),
}  # fmt: skip


LATER = {"one row", "fewer rows than a window", "a horizon beyond the rows", "nearly all held out"}  # once torch is imported


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_at_once_and_writes_nothing(tmp_path, forecast, monkeypatch, case):
    text, arguments, words = BAD[case]
    if case not in LATER:
        monkeypatch.setitem(sys.modules, "charrnn.forecast.forecaster", None)  # without it there is no torch
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / MODEL).write_bytes(b"precious")
    status, out, errors = forecast(*arguments)
    assert (status, out, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith("error: ")
    assert words in errors
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "used"]
    assert (tmp_path / "used" / MODEL).read_bytes() == b"precious"


# The program


def test_the_program_prints_a_table_writes_a_table_and_keeps_a_model(tmp_path, forecast):
    out, errors = charrnn("forecast", TIDE, "--steps", 40, "-o", "kept", "--save", "p.csv", cwd=tmp_path)
    lines = out.decode().splitlines()
    assert lines[0].split() == ["height,", "1", "row", "ahead", "network", "naive"]
    assert [line.split("  ")[0] for line in lines[1:6]] == ["RMSE", "MAE", "RMSE, scaled", "MAE, scaled", "forecast"]
    assert lines[6].startswith("Over 300 held-out rows the network's RMSE is")
    assert len(lines) == 7
    assert errors == ""
    with open(tmp_path / "p.csv") as file:
        names, *rows = csv.reader(file)
    assert names == ["time", "height", "forecast", "naive"]
    assert len(rows) == 301
    assert rows[0][0] == read_series(TIDE).moments[700]
    assert rows[-1][:2] == ["+1", ""]
    assert [row[3] for row in rows[1:]] == [row[1] for row in rows[:-1]]
    status, out, errors = forecast("-", "--steps", 40, "--json", pipe=TIDE.read_bytes())
    figures = json.loads(out)
    assert (status, errors) == (0, "")
    assert figures["scored_rows"] == 300
    assert figures["forecast"] == float(rows[-1][2])
    errors = [float(row[1]) - float(row[2]) for row in rows[:-1]]
    assert figures["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    again = json.loads(forecast(TIDE, "-m", "kept", "--json")[1])
    assert again["forecast"] == figures["forecast"]
    assert again["scored_rows"] == 993
    assert forecast(TIDE, "--steps", 1, "-o", "kept", "--force")[0] == 0
    assert json.loads(forecast(TIDE, "-m", "kept", "--json")[1])["forecast"] != figures["forecast"]
    assert os.listdir(tmp_path / "kept") == [MODEL]
    status, _, errors = forecast(TIDE, "-m", "kept", "--save", "kept/none/p.csv")
    assert status == 1
    assert errors.startswith("error: kept/none/p.csv can't be written")


def test_without_held_out_rows_there_is_a_forecast_and_no_figure(forecast):
    out = forecast(TIDE, "--steps", 5, "--validation", 0, "--horizon", 2)[1]
    assert out.splitlines()[1].startswith("forecast")
    assert "RMSE" not in out


def test_repairs_are_said_on_standard_error_unless_it_is_to_be_quiet(forecast):
    table = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i % 7) for i in range(30)) + b"3,\n"
    assert forecast("--steps", 2, pipe=table)[2] == "note: missing values: 1 in b; each is replaced by the value before it\n"
    assert forecast("--steps", 2, "-q", pipe=table)[2] == ""


def test_the_column_that_the_user_would_take_is_forecast_with_quiet_too(forecast):
    table = "Datum;Schluss\n" + "".join(f"{i + 1:02}.01.2021;1{i:02},94\n" for i in range(30))
    status, out, errors = forecast("--steps", 2, "-q", "--json", pipe=table.encode())
    assert (status, errors) == (0, "")
    assert (json.loads(out)["target"], json.loads(out)["naive_forecast"]) == ("Schluss", 129.94)
    assert forecast("--steps", 2, pipe=table.encode())[2] == "note: column Schluss: '100,94' is read as 100.94\n"


def test_a_terminal_gets_a_plot_after_the_table(tmp_path):
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "charrnn", "forecast", str(TIDE), "--steps", "5", "-q"]
    environment = {**os.environ, "COLUMNS": "60", "PYTHONUTF8": "1"}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=terminal, cwd=tmp_path, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(controller)
    assert process.wait(20) == 0
    text = shown.decode()
    assert text.index("held-out rows") < text.index("truth, ")
    plot = text[text.index("held-out rows") :].splitlines()[1:9]
    assert all(any("\u2800" <= c <= "\u28ff" for c in line) for line in plot)


def test_a_plot_without_matplotlib_says_how_to_install_it(forecast, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = "error: --plot needs matplotlib: pip install 'charrnn[plot]'\n"
    assert forecast(TIDE, "--plot", "p.png") == (2, "", words)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_plot_is_drawn_in_each_format(suffix, start):
    pytest.importorskip("matplotlib", reason="matplotlib, an extra, is not installed")
    drawn = draw_plot(suffix, "price in $", [[1.0, 2.0, float("nan")], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]])
    assert drawn.startswith(start)


def test_the_program_draws_a_plot(tmp_path, forecast):
    pytest.importorskip("matplotlib", reason="matplotlib, an extra, is not installed")
    assert forecast(TIDE, "--steps", 2, "--plot", "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_ends_it_at_once_and_keeps_nothing(tmp_path):
    hasty = "import time; clock = time.monotonic; time.monotonic = lambda: 20 * clock(); "  # a line is due after ten seconds
    hasty += "from charrnn.__main__ import main; main()"
    command = [sys.executable, "-c", hasty, "forecast", str(TIDE), "--steps", "1000000", "-o", "kept"]
    process = start(command, tmp_path)
    assert process.stderr.readline().startswith("learning: ")
    process.send_signal(signal.SIGINT)
    assert all(line.startswith("learning: ") for line in process.communicate(timeout=20)[1].splitlines())
    assert process.returncode == 130
    assert os.listdir(tmp_path / "kept") == []


# Kept models


def test_a_kept_model_forecasts_as_before(tmp_path):
    series = series_of(np.sin(np.arange(100) / 3), np.arange(100.0))
    network, forecasts, _ = learn(series, replace(QUICK, num_layers=2, cell="gru"))
    network.save(tmp_path)
    again = Forecaster.load(tmp_path)
    assert again.forecast(series).tobytes() == forecasts.tobytes()
    assert again.header == network.header
    with pytest.raises(CharrnnError, match=r"too few rows \(5\) for a window of 7"):
        again.forecast(series_of(np.arange(5.0), np.arange(5.0)))


@pytest.mark.parametrize(
    "change",
    [
        {"columns": ["0", 1]},
        {"columns": []},
        {"columns": 5},
        {"low": [0.0]},
        {"span": [0.0, 1.0, 1.0]},
        {"change": -1.0},
        {"change": "much"},
        {"settings": {"hidden_size": 1000}},
        {"settings": {"window": 0}},
        {"settings": {"window": True}},
        {"settings": {"colour": 1}},
        {"settings": []},
        {"target": None},
    ],
)
def test_a_damaged_model_gets_one_line(tmp_path, change):
    network = Forecaster.create(series_of(np.arange(30.0), np.arange(30.0)), QUICK)
    network.save(tmp_path)
    tensors, header = checkpoint.read(tmp_path / MODEL)
    checkpoint.write(tmp_path / MODEL, tensors, {"forecast": header["forecast"] | change})
    with pytest.raises(CharrnnError, match="is not a usable forecast model"):
        Forecaster.load(tmp_path)
    checkpoint.write(tmp_path / MODEL, tensors | {"head.bias": np.array([np.nan], np.float32)}, header)
    with pytest.raises(CharrnnError, match="not finite"):
        Forecaster.load(tmp_path)


def dated(rows):
    return "day,x\n" + "".join(f"{day},{k % 7}\n" for k, day in enumerate(rows))


DAYS = [f"2024-{month:02}-{day:02}" for month in (1, 2, 3) for day in range(1, 29)]


@pytest.mark.parametrize("rows", [DAYS * 3, sorted(DAYS * 3)], ids=["stacked", "sorted"])
def test_several_series_in_one_table_are_an_error_that_says_so(forecast, tmp_path, rows):
    (tmp_path / "t.csv").write_text(dated(rows))
    errors = forecast("t.csv", "--steps", 1)[2]
    assert errors.count("\n") == 1
    assert f"the dates in column day repeat in {2 * len(DAYS)} rows (line " in errors
    assert "keep one row for each date" in errors


def test_a_gap_and_a_repeated_date_are_noted_with_their_rows(tmp_path):
    rows = [*DAYS[:10], DAYS[9], *DAYS[10:20], *DAYS[60:]]
    (tmp_path / "t.csv").write_text(dated(rows))
    notes = read_series(tmp_path / "t.csv").notes
    assert notes == ["column day: a date repeats (line 12: 2024-01-10)", "column day: a gap before line 23 (2024-03-05)"]
    (tmp_path / "t.csv").write_text(dated(DAYS))
    assert read_series(tmp_path / "t.csv").notes == []


def test_of_many_gaps_and_repeated_dates_three_are_named(tmp_path):
    rows = sorted(DAYS[:28] + [day.replace("2024", "2025") for day in DAYS] + DAYS[:4])
    rows += [f"20{year}-01-01" for year in range(26, 31)]
    (tmp_path / "t.csv").write_text(dated(rows))
    notes = [note.removeprefix("column day: ") for note in read_series(tmp_path / "t.csv").notes]
    repeats = [f"a date repeats (line {2 * k + 3}: {DAYS[k]})" for k in range(3)]
    gaps = ["a gap before line 34 (2025-01-01)", "a gap before line 118 (2026-01-01)", "a gap before line 119 (2027-01-01)"]
    assert notes == [*repeats, "more repeated dates: 1", *gaps, "more gaps: 3"]


HOURLY = [(day, hour) for day in DAYS[:28] for hour in range(24)]
TIMES = {  # tables of one series whose days repeat; their moments
    "a time of day": ("Date;Time;x\n", "{day};{hour:02}:00;{x}\n", "Date Time", "{day} {hour:02}:00"),
    "an hour": ("dteday,season,hr,x\n", "{day},1,{hour},{x}\n", "dteday hr", "{day} {hour}:00"),
    "before it": ("time,day,x\n", "{hour}:00 AM,{day},{x}\n", "day time", "{day} {hour}:00 AM"),
    "another date": ("entered,day,x\n", "2025-05-05,{day} {hour:02}:00,{x}\n", "day", "{day} {hour:02}:00"),
}


@pytest.mark.parametrize("name", TIMES)
def test_days_may_repeat_if_a_time_of_day_tells_the_rows_apart(tmp_path, name):
    head, row, column, moment = TIMES[name]
    known = [{"day": day, "hour": hour, "x": hour % 7} for day, hour in HOURLY if "AM" not in row or 0 < hour < 12]
    (tmp_path / "t.csv").write_text(head + "".join(row.format(**facts) for facts in known))
    series = read_series(tmp_path / "t.csv")
    assert series.moment == column
    assert series.moments == [moment.format(**facts) for facts in known]
    assert "AM" in row or series.notes == []  # nights are gaps
    twice = [facts for facts in known for _ in range(2)]
    (tmp_path / "t.csv").write_text(head + "".join(row.format(**facts) for facts in twice))
    with pytest.raises(CharrnnError, match="keep one row for each date"):
        read_series(tmp_path / "t.csv")


def test_windows_of_one_row_and_tables_of_one_window_warn_of_nothing(forecast, tmp_path):
    (tmp_path / "t.csv").write_text(dated(DAYS))
    assert forecast("t.csv", "--steps", 2, "--window", 1)[0] == 0
    assert forecast("t.csv", "--steps", 2, "--window", 5, "-o", "model")[0] == 0
    (tmp_path / "five.csv").write_text(dated(DAYS[:5]))
    assert forecast("five.csv", "-m", "model")[0] == 0


def test_a_column_name_that_a_spreadsheet_would_run_is_saved_harmless(forecast, tmp_path):
    for name, written in (("=1+1", "'=1+1"), ("@sum", "'@sum"), ("a\x07b", "a\\x07b"), ("x", "x")):
        (tmp_path / "t.csv").write_text(dated(DAYS).replace("day,x", f"day,{name}"))
        errors = forecast("t.csv", "--steps", 1, "--save", "out.csv")[2]
        assert (tmp_path / "out.csv").read_text().splitlines()[0] == f"day,{written},forecast,naive"
        assert ("spreadsheet" in errors) == (name != written)
    (tmp_path / "t.csv").write_text("day,x\n" + "".join(f"{day}\x1b10:00,{k % 7}\n" for k, day in enumerate(DAYS)))
    forecast("t.csv", "--steps", 1, "--save", "out.csv")
    assert "\x1b" not in (tmp_path / "out.csv").read_text()
