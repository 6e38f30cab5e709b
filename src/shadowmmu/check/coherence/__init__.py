"""Coherence: what a processor could use is what the guest and the host allow, and what it needs it gets.

The specification of a shadow MMU, stated once:

  allowed    what the guest's tables say now, or said after the vCPU's last flush that covers the address
             (guest_tables), for frames that a slot has and the host maps now. A read-only slot is never
             written, a page of a slot that logs only while it is marked as dirty, which the guest's
             tables there are, too, when A and D are set in them.
  usable     what the TLB holds and what the tables below the root say (usable), unless KVM will change it
             before it enters the guest: a request is pending.
  the rule   usable is a part of allowed. And what the tables allow now is never refused: a guest that gets
             an exception has asked for what its tables do not give, and what it reads is what is in memory.
"""

from .whole import Coherence

__all__ = ["Coherence"]
