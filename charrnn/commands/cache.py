"""`charrnn cache`."""

import os
from typing import Annotated

from charrnn.commands.common import option


def cache(clear: Annotated[bool, option("Remove them all.", names="--clear")] = False) -> None:
    """Show the disk space that the ids of long texts take, or free it.

    A text of more than 16 million characters is kept as ids, so that it is read only once. What was used longest ago is removed
    by itself when all of them take more than 20 GB, or than a tenth of the free disk.
    """
    from charrnn.text import id_cache

    files = id_cache.kept()
    size = sum(facts.st_size for _, facts in files)
    found = f"{len(files):,} files, {size / 1e6:,.0f} MB, in {id_cache.cache_folder()}"
    if clear:
        for file, _ in files:
            os.unlink(file)
        print(f"removed {found}")
    elif files:
        print(f"{found}; at most {id_cache.limit() / 1e6:,.0f} MB are kept; remove them with: charrnn cache --clear")
    else:
        print(found)
