"""Words of KVM's MMU decoded: roles, SPTEs, guest entries, error codes, exit codes.

Every function returns a `Decoded`: the bits by name, what KVM prints, what follows, in sentences.
"""

from .exit_code import decode_exit, parse_exit
from .gpte import GpteFormat, decode_gpte
from .pferr import decode_pferr
from .record import Decoded, Field
from .role import decode_cpu_role, decode_role, role_text
from .spte import decode_ept, decode_spte
from .words import SpteText, WordError, parse_spte, parse_word

__all__ = [
    "Decoded",
    "Field",
    "GpteFormat",
    "SpteText",
    "WordError",
    "decode_cpu_role",
    "decode_ept",
    "decode_exit",
    "decode_gpte",
    "decode_pferr",
    "decode_role",
    "decode_spte",
    "parse_exit",
    "parse_spte",
    "parse_word",
    "role_text",
]
