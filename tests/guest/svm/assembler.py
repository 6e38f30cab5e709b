"""Machine code for tests: assembled once, kept in assembled.json by its text.

A test gives assembler text; what it means is looked up, so that tests need no assembler. After a change of a
text run the tests in one process with SHADOWMMU_ASSEMBLE=1, which calls GNU as and ld for what is missing.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

STORE = Path(__file__).with_name("assembled.json")
_known: dict[str, str] = json.loads(STORE.read_text()) if STORE.exists() else {}


def key(text: str, bits: int, origin: int) -> str:
    return hashlib.sha256(f"{bits} {origin:#x}\n{text}".encode()).hexdigest()[:16]


def assemble(text: str, bits: int, origin: int) -> bytes:
    """What GNU as and ld make of Intel syntax at that address."""
    kind, target = ("64", "elf_x86_64") if bits == 64 else ("32", "elf_i386")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        prefix = ".intel_syntax noprefix\n" + (".code16\n" if bits == 16 else "") + ".globl _start\n_start:\n"
        (path / "a.s").write_text(prefix + text + "\n")
        subprocess.run(["as", f"--{kind}", "-o", path / "a.o", path / "a.s"], check=True)
        subprocess.run(
            ["ld", "-m", target, "--oformat=binary", f"-Ttext={origin:#x}", "-o", path / "a", path / "a.o"],
            check=True,
        )
        return (path / "a").read_bytes()


def asm(text: str, bits: int, origin: int) -> bytes:
    """Machine code of a text. Raises LookupError if it was never assembled."""
    name = key(text, bits, origin)
    if name not in _known:
        if not os.environ.get("SHADOWMMU_ASSEMBLE"):
            raise LookupError(f"not in {STORE.name}; run with SHADOWMMU_ASSEMBLE=1:\n{text}")
        _known[name] = assemble(text, bits, origin).hex()
        STORE.write_text(json.dumps(dict(sorted(_known.items())), indent=0) + "\n")
    return bytes.fromhex(_known[name])
