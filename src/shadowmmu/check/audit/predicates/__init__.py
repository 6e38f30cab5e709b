"""The invariants of KVM's MMU, each a named predicate (`check.audit.predicate.PREDICATES`)."""

from . import guest_tables, links, rmaps, roots, structure, tdp, tlb

__all__ = ["guest_tables", "links", "rmaps", "roots", "structure", "tdp", "tlb"]
