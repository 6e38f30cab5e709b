"""The vCPU whose ioctl runs (vcpu_load, vcpu_put, kvm_get_running_vcpu, virt/kvm/kvm_main.c, 6.12.111)."""

from collections.abc import Iterator
from contextlib import contextmanager

from .vcpu import Vcpu
from .vm import Kvm


@contextmanager
def loaded(vcpu: Vcpu) -> Iterator[None]:
    """Make `vcpu` the running one for as long as its ioctl lasts; afterwards it is the one before."""
    kvm: Kvm = vcpu.kvm
    before = kvm.running_vcpu
    kvm.running_vcpu = vcpu
    try:
        yield
    finally:
        kvm.running_vcpu = before


@contextmanager
def none_loaded(kvm: Kvm) -> Iterator[None]:
    """Let no vCPU run for as long as another thread of user space does something."""
    before = kvm.running_vcpu
    kvm.running_vcpu = None
    try:
        yield
    finally:
        kvm.running_vcpu = before
