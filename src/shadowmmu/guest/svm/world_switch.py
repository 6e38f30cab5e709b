"""What VMRUN and #VMEXIT do to registers: KVM gets the guest's, the processor KVM's, with its flushes."""

from ...kvm.state.vcpu import Vcpu
from ...x86.bits import (
    CR0_CD,
    CR0_NW,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    CR4_UMIP,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    EFER_SVME,
)
from ...x86.svm import SVM_EXIT_GDTR_READ, SVM_EXIT_IDTR_READ, SVM_EXIT_LDTR_READ, SVM_EXIT_TR_READ
from .processor import SvmProcessor
from .registers import FLAG_AC, HF_CPL, HF_CS64

TABLE_REGISTER_READS = SVM_EXIT_IDTR_READ, SVM_EXIT_GDTR_READ, SVM_EXIT_LDTR_READ, SVM_EXIT_TR_READ


class WorldSwitch:
    """The switch of one vCPU; `loaded` are the guest's CR0, CR4 and EFER that the processor runs with."""

    def __init__(self, vcpu: Vcpu, processor: SvmProcessor, *, npt: bool) -> None:
        self.vcpu = vcpu
        self.processor = processor
        self.npt = npt
        self.loaded: tuple[int, ...] = ()
        self._flushes = self._page_flushes = -1

    def note_state(self) -> None:
        """Tell KVM what it would read from the VMCB."""
        self.note_registers()
        if self.npt:
            self.vcpu.cpu.root = self.vcpu.cr3 = self.processor.cr(3)

    def note_registers(self) -> None:
        """Tell KVM where the guest is: all that the delivery of an event changes."""
        processor, vcpu = self.processor, self.vcpu
        q = processor.q
        hflags = processor.d[processor.hflags_word]
        vcpu.rip = q[processor.rip_word]
        vcpu.cpl = hflags & HF_CPL
        vcpu.compatibility_mode = not hflags & HF_CS64
        vcpu.eflags_ac = q[processor.eflags_word] & FLAG_AC != 0

    def load(self) -> None:
        """Give the processor KVM's registers and flushes."""
        vcpu, processor = self.vcpu, self.processor
        cpu = vcpu.cpu
        if (vcpu.cr0, vcpu.cr4, vcpu.efer) != self.loaded:
            self.load_modes()
        flush = False
        root = vcpu.cr3 if self.npt else cpu.root
        if processor.cr(3) != root:
            processor.set_cr(3, root)
            flush = True
        if self.npt and processor.nested_cr3 != cpu.nested_root:
            processor.nested_cr3 = cpu.nested_root
            flush = True
        pages = cpu.page_flushes - self._page_flushes
        if flush or cpu.flushes != self._flushes or pages > 1:
            processor.flush()
        elif pages:
            processor.flush_page(cpu.flushed_page)
        self._flushes, self._page_flushes = cpu.flushes, cpu.page_flushes

    def load_modes(self, cpl: int | None = None) -> None:
        """Load the control registers that the guest runs with (svm_set_cr0, svm_set_cr4, svm_set_efer).

        Outside of long mode EFER.LMA makes the emulator refuse far transfers through gates and task switches
        (#GP), which it would do with the guest's CR3; IRET, which may be one, exits.
        """
        vcpu, processor = self.vcpu, self.processor
        cr0, efer = vcpu.cr0 & ~(CR0_CD | CR0_NW), vcpu.efer | EFER_SVME
        cr4 = vcpu.cr4 & ~(CR4_PCIDE | CR4_UMIP)
        processor.intercept(*TABLE_REGISTER_READS, wanted=bool(vcpu.cr4 & CR4_UMIP))
        if not self.npt:
            cr0 |= CR0_PG | CR0_WP
            cr4 |= CR4_PAE
            if not vcpu.is_paging():
                cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE)
            efer |= EFER_NX
            if not efer & EFER_LMA:
                efer &= ~EFER_LME
        processor.long_mode = bool(efer & EFER_LMA)
        if not processor.long_mode:
            efer |= EFER_LMA
        processor.intercept_iret()
        processor.set_cr(0, cr0)
        processor.set_cr(4, cr4)
        processor.efer = efer
        processor.update_modes(cpl)
        processor.flush()
        self.loaded = (vcpu.cr0, vcpu.cr4, vcpu.efer)
