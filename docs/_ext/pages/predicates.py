"""The predicates of the audit, by what they are about."""

from __future__ import annotations

from marked import code, definitions, sentence
from shadowmmu.check.audit.audit import PREDICATES
from shadowmmu.check.audit.predicate import Scope


def page() -> str:
    """Return the predicates of each scope with the kernel functions that see to them."""
    parts = [f"There are {len(PREDICATES)} predicates."]
    for scope in Scope:
        chosen = [predicate for predicate in PREDICATES.values() if predicate.scope is scope]
        if not chosen:
            continue
        title = scope.value[0].upper() + scope.value[1:]
        parts += [
            f"## {title}",
            definitions(
                (
                    code(predicate.name),
                    f"{sentence(predicate.means)} *Kernel: "
                    f"{', '.join(code(symbol) for symbol in predicate.symbols)}.*",
                )
                for predicate in chosen
            ),
        ]
    return "\n\n".join(parts)
