"""Real machine code on the model: an emulated SVM processor whose page walker walks the shadow tables.

    machine = SvmMachine(memory=64 << 20)
    machine.write(0x100000, code)
    machine.start_protected(eip=0x100000)
    machine.on_port(0xF4, write=lambda port, size, value: machine.stop("exit", value))
    outcome = machine.run(seconds=10)
    outcome.reason, outcome.detail         # "exit", 3

`machine` has the whole API for whoever builds a computer or a guest operating system on it; `processor` is
the processor alone, `layout` what has to be known of Unicorn. Both need the extra `shadowmmu[guest]`.
"""

EXTRA = "running machine code needs two more packages: pip install 'shadowmmu[guest]'"
UNICORN_VERSION = "2.1.4"
"""The version whose processor state and exits were studied; `layout` checks that they are as expected."""


class EmulatorError(Exception):
    """The emulated processor cannot be had: a package is missing, or it is not the one that is known."""
