"""Print the pip option that finds torch's CPU build, on Linux without an NVIDIA GPU, for `make`.

PyPI's torch for Linux comes with CUDA: 2.7 GB to download. The CPU build, 0.2 GB, is in an index of PyTorch's own. It has the
same version with `+cpu` after it, which pip prefers.
"""

import shutil
import subprocess
import sys
import urllib.request

INDEX = "https://download.pytorch.org/whl/cpu"
WAIT = 5  # seconds, at most, for an answer


def has_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def main(index: str = INDEX) -> None:
    """Print the option, if one is needed and `index` can be reached; where it can't be, say so on standard error."""
    if sys.platform != "linux" or has_gpu():
        return
    try:
        urllib.request.urlopen(f"{index}/torch/", timeout=WAIT).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        print(f"note: {index} can't be reached ({reason}); pip takes the torch that it finds", end="", file=sys.stderr)
        print(", which from PyPI is the CUDA build (2.7 GB)", file=sys.stderr)
    else:
        print(f"--extra-index-url {index}")


if __name__ == "__main__":
    main(*sys.argv[1:])
