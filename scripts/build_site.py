"""Builds docs/ as a site: `python scripts/build_site.py MODEL SITE`. `make site` calls it.

MODEL is the run whose model visitors may try, on the page try.html. The folder SITE is replaced.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from charrnn.checkpoint import read_model
from charrnn.export.html import render_page

ROOT = Path(__file__).parent.parent
COMMENT = re.compile(r"^<!-- .*? -->\n", re.M)  # for scripts/pages.py and scripts/reference.py
OUTWARD = re.compile(r"\[([^]]*)\]\(\.\./[^)]*\)")  # a link to a file outside of docs/, which the site lacks


def render_try_page(model: Path) -> str:
    """The page to try a model on."""
    tensors, header = read_model(model)
    metrics = header.training.metrics
    bits = metrics.validation_bits_per_character if metrics is not None else None
    about = "Trained on the play that comes with charrnn, for three minutes on two cores."
    return render_page(tensors, header, title="The Lamp at Skerry Point, continued", about=about, bits=bits)


def build(model: Path, site: Path, docs: Path = ROOT / "docs") -> None:
    """Build the site. Raises: SystemExit with Zensical's warnings, such as broken links."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ROOT / "zensical.toml", folder)
        shutil.copytree(docs, folder / "docs")
        for page in (folder / "docs").glob("*.md"):
            page.write_text(OUTWARD.sub(r"`\1`", COMMENT.sub("", page.read_text())))
        (folder / "docs/try.html").write_text(render_try_page(model), encoding="utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise SystemExit(done.stdout)
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(folder / "site", site)


if __name__ == "__main__":
    build(Path(sys.argv[1]) / "model.safetensors", Path(sys.argv[2]))
