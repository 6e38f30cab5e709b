"""Real machine code on the model: an emulated SVM processor whose page walker walks the shadow tables.

    machine = SvmMachine(memory=64 << 20)
    machine.write(0x100000, code)
    machine.start_protected(eip=0x100000)
    machine.on_port(0xF4, write=lambda port, size, value: machine.stop("exit", value))
    outcome = machine.run(seconds=10)
    outcome.reason, outcome.detail         # "exit", 3

`machine` has the whole API for whoever builds a computer or a guest operating system on it; `processor` is
the processor alone, `exit_codes` why it leaves the guest, `layout` what has to be known of Unicorn. They need
the extra `shadowmmu[guest]`.

`run_loop` takes an exit to its handler, and `entry` returns to the guest:

    state, world_switch             memory and registers: user space's view, KVM's, the processor's
    run_loop, entry, events         exits, limits and timers; entries; exceptions, interrupts, NMIs
    interrupts                      the delivery of an event through the IDT
    page_faults, progress           #PF and #NPF; faults that repeat for ever
    single_step                     an instruction that runs alone
    execution                       an instruction that KVM completes: fetch, trace, RIP
    emulator, instructions          KVM's emulator on real code, its decoder
    operands, arithmetic, moves, stack, strings
                                    what instructions do
    task_switch, far_transfers, segments
                                    task switches and gates outside of long mode
    control_registers, debug_registers, msr_exits, msrs, invalidations, table_registers, intercepts, cpuid,
    undefined_opcodes
                                    instructions that exit
    devices, system_calls           ports and MMIO; SYSCALL, SYSENTER and VMMCALL

What Unicorn's processor lacks: data breakpoints and #AC never come (KVM's emulator raises neither); RFLAGS.RF
stays set after the IRET that set it, and shows in PUSHF; RCL and RCR lose the carry where their store faults.
"""

EXTRA = "running machine code needs two more packages: pip install 'shadowmmu[guest]'"
UNICORN_VERSION = "2.1.4"
"""The version whose processor state and exits were studied; `layout` checks that they are as expected."""


class EmulatorError(Exception):
    """The emulated processor cannot be had: a package is missing, or it is not the one that is known."""
