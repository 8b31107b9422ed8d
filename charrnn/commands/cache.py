"""`charrnn cache`."""

from pathlib import Path
from typing import Annotated

from charrnn.commands.common import option


def cache(clear: Annotated[bool, option("Delete all of it.", names="--clear")] = False) -> None:
    """Show or delete the cache of long texts.

    Texts of more than 16 million characters are cached as character ids, so that each text is converted only once. The cache
    takes at most 20 GB, and at most a tenth of the free disk space; the least recently used texts are deleted first.

    Examples:
    charrnn cache
    charrnn cache --clear
    """
    from charrnn.text import cache_folder

    files = cache_folder.list_files()
    size = sum(facts.st_size for _, facts in files)
    found = f"{len(files):,} files, {size / 1e6:,.0f} MB, in {cache_folder.cache_folder()}"
    if clear:
        for file, _ in files:
            Path(file).unlink(missing_ok=True)
        print(f"removed {found}")
    elif files:
        print(f"{found}; at most {cache_folder.size_limit() / 1e6:,.0f} MB are kept; remove them with: charrnn cache --clear")
    else:
        print(found)
