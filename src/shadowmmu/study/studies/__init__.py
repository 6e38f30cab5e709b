"""The studies, by the mail that asked."""

from __future__ import annotations

from ..study import Study
from . import mail_000, mail_001, mail_002, mail_002_mmio, mail_003, mail_004, wider

__all__ = ["STUDIES"]

STUDIES: dict[str, Study] = {
    study.name: study
    for module in (mail_000, mail_001, mail_002, mail_002_mmio, mail_003, mail_004, wider)
    for study in module.STUDIES
}
"""All studies, by name."""
