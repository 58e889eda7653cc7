"""A place that nothing can be written to any more: full, over quota, too large for it, or read-only."""

from __future__ import annotations

import errno

from babelscope.errors import Unwritable

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_WORDS = ("No space left", "Disk quota", "File too large", "Read-only file system")


def no_room(error: BaseException) -> bool:
    """Whether an error says that a disk is full or closed, as Python or a library in another language reports it."""
    seen: BaseException | None = error
    for _ in range(8):  # a reader may have wrapped it in an error of its own
        if seen is None:
            return False
        if isinstance(seen, Unwritable) or (isinstance(seen, OSError) and seen.errno in _NO_ROOM):
            return True
        if isinstance(seen, Exception) and not isinstance(seen, OSError) and any(word in str(seen) for word in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
