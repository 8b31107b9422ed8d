"""Measure pages of `charrnn export --to html` in headless Chromium; prints a Markdown table.

    python benchmarks/page.py [MODEL]...

MODEL is a run's folder or a model file. Without one the models are LSTMs of 2 x 256 and 2 x 512 with random weights. Of several
rounds the best counts, since other work on the machine only slows them down. It takes playwright and a Chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from charrnn.checkpoint import Tensors, read_model
from charrnn.export.html import render_page
from charrnn.headers import ModelHeader
from charrnn.network.config import Config
from charrnn.run_folder import find_model

CHARACTERS = "".join(sorted("\n !$&',-.3:;?" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"))
LENGTH, ROUNDS = 2000, 3
# Clicks on Continue: milliseconds to the first character on the page and to the last, and the longest frame between.
WRITE = """length => new Promise(done => {
    const text = document.getElementById("write-text"), status = document.getElementById("write-status");
    const before = text.value.length, began = performance.now();
    let first = 0, last = began, longest = 0;
    const look = () => {
        const now = performance.now();
        longest = Math.max(longest, now - last);
        last = now;
        if (!first && text.value.length > before) first = now - began;
        if (status.textContent === "writing") requestAnimationFrame(look);
        else done([first, now - began, longest]);
    };
    document.getElementById("write-length").value = length;
    document.getElementById("write-go").click();
    requestAnimationFrame(look);
})"""


def make_up(hidden_size: int) -> tuple[Tensors, ModelHeader]:
    """Make a two-layer model with random weights of realistic size."""
    config = Config(len(CHARACTERS), num_layers=2, hidden_size=hidden_size)
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.normal(0, shape[-1] ** -0.5, shape).astype(np.float32) for name, shape in config.shapes().items()
    }
    return tensors, ModelHeader(config=config, vocabulary=CHARACTERS, start="\n")


def measure(page: Page) -> str:
    """Measure a page. Returns: cells of the table: time until ready and first character, characters/s, longest frame."""
    page.locator("#write-next button").first.wait_for(timeout=120_000)
    ready = page.evaluate("performance.now()")
    rounds = np.array([page.evaluate(WRITE, LENGTH) for _ in range(ROUNDS)])
    first, whole, longest = rounds.min(axis=0)
    return f"{ready:.0f} ms | {first:.0f} ms | {1000 * LENGTH / whole:,.0f} | {longest:.0f} ms"


def main() -> None:
    models = {name: read_model(find_model(name)) for name in sys.argv[1:]}
    models = models or {f"2 x {hidden_size}, random weights": make_up(hidden_size) for hidden_size in (256, 512)}
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    print("| model | file | ready after | first character | characters/s | longest frame |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=120_000)
        for name, (tensors, header) in models.items():
            file = Path(folder, "page.html")
            file.write_text(render_page(tensors, header), encoding="utf-8")
            page = chromium.new_page()
            page.goto(file.as_uri())
            print(f"| {name} | {file.stat().st_size / 1e6:.2f} MB | {measure(page)} |", flush=True)
            page.close()
        chromium.close()


if __name__ == "__main__":
    main()
