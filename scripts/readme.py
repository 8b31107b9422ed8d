"""Write the output of each command's --help into README.md, between its markers: `make readme`."""

import os
import re
import subprocess
import sys
from pathlib import Path

readme = Path(__file__).parent.parent / "README.md"
text = readme.read_text()
for command in ("train", "sample", "eval", "report", "info", "export", "forecast"):
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "charrnn", command, "--help"], env=env, capture_output=True, text=True, check=True
    )
    block = f"<!-- help {command} -->\n```\n{done.stdout.strip()}\n```\n<!-- end -->"
    text = re.sub(rf"<!-- help {command} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.S)
readme.write_text(text)
