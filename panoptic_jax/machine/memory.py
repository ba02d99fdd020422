"""How the process gets memory from the operating system, where arrays live in its own memory.

What arrays take is decided elsewhere; `planning/` predicts it for accelerators.
"""

import ctypes

# Of <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed() -> None:
    """Freed memory stays with the process, for the arrays that come next.

    XLA on CPU frees its buffers after every call. glibc gives large ones back to the system at
    once, which clears their pages when they are taken anew, in every step of a training: that was a
    fifth of the processor time of the quickstart. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(name=None)  # the process itself
    if hasattr(library, 'mallopt'):
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, _NEVER)
