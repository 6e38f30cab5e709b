"""The studies, by the mail that asked."""

from __future__ import annotations

from ..study import Study
from . import mail_002, mail_003, wider

__all__ = ["STUDIES"]

STUDIES: dict[str, Study] = {
    study.name: study for module in (mail_002, mail_003, wider) for study in module.STUDIES
}
"""All studies, by name."""
