"""How much code the emulated processor has executed, and a tick after so much of it.

The emulator calls `passed` at the begin of each block of code. Compiled it is a C function that needs no
interpreter, so that counting is cheap.
"""

import ctypes

import cython

ELAPSED, DUE = 0, 1
"""Words: bytes of code so far, and at how many of these a tick is requested."""
NEVER = (1 << 64) - 1
BLOCK_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint64)
)


def passed(uc, address, size, words):  # type: ignore[no-untyped-def]
    """Count a block of code of `size` bytes; when a tick is due let the processor look at its requests.

    It runs without the interpreter, and so without its names: `words` are [ELAPSED, DUE, REQUESTS, LEAVE],
    100_000 is the bytes of code after which a request is made again, for the guest may have dropped it, 0x40
    the request for a tick.
    """
    words[0] += size
    if words[0] >= words[1]:
        words[1] = words[0] + 100_000
        if cython.compiled:
            cython.cast(cython.p_uint, cython.cast(cython.size_t, words[2]))[0] |= 0x40
            cython.cast(cython.p_ushort, cython.cast(cython.size_t, words[3]))[0] = 0xFFFF
        else:
            ctypes.c_uint32.from_address(words[2]).value |= 0x40
            ctypes.c_uint16.from_address(words[3]).value = 0xFFFF


class CodeCounter:
    """Counts the code of one processor, whose requests and counter are at these addresses.

    `callback` and `data` are what the emulator is to call at each block of code.
    """

    def __init__(self, requests: int, leave: int) -> None:
        self._words = (ctypes.c_uint64 * 4)(0, NEVER, requests, leave)
        self.data = ctypes.addressof(self._words)
        if cython.compiled:
            self.callback = cython.cast(cython.size_t, cython.cast(cython.p_void, passed))
        else:
            self._function = BLOCK_CALLBACK(passed)
            self.callback = ctypes.cast(self._function, ctypes.c_void_p).value or 0

    def executed(self) -> int:
        """Return the bytes of code executed so far, by whole blocks."""
        return self._words[ELAPSED]

    def tick_after(self, size: int) -> None:
        """Request a tick after that many bytes of code more; instead of at an earlier time."""
        self._words[DUE] = min(self._words[ELAPSED] + max(size, 0), NEVER)
