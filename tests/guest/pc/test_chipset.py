"""Devices, one by one."""

import pytest

from shadowmmu.guest.pc.apic import IoApic, LocalApic
from shadowmmu.guest.pc.chipset import Cmos, Counters, FwCfg, Pci, Pic, Pit, TestDevice
from shadowmmu.guest.pc.serial import Serial

APIC = 0xFEE00000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_serial_port() -> None:
    sent: list[bytes] = []
    serial = Serial(sent.append)
    serial.write(0x3FB, 1, 0x80)
    serial.write(0x3F8, 1, 1)
    serial.write(0x3F9, 1, 0)
    assert (serial.read(0x3F8, 1), serial.read(0x3F9, 1)) == (1, 0)
    serial.write(0x3FB, 1, 3)
    serial.write(0x3F8, 1, ord("x"))
    assert sent == [b"x"]
    assert serial.read(0x3FD, 1) == 0x60
    assert serial.read(0x3FB, 1) == 3
    assert serial.read(0x3F8, 1) == 0


def test_serial_loopback() -> None:
    sent: list[bytes] = []
    serial = Serial(sent.append)
    serial.write(0x3FC, 1, 0x1A)
    assert serial.read(0x3FE, 1) >> 4 == 9
    assert serial.read(0x3FD, 1) == 0x60
    serial.write(0x3F8, 1, 0xAE)
    assert serial.read(0x3FD, 1) == 0x61
    assert serial.read(0x3F8, 1) == 0xAE
    assert serial.read(0x3FD, 1) == 0x60
    assert sent == []
    serial.write(0x3FC, 1, 0x15)
    assert serial.read(0x3FE, 1) == 0x6F
    assert serial.read(0x3FE, 1) == 0x60


def test_serial_fifos_are_identified() -> None:
    serial = Serial(lambda data: None)
    assert serial.read(0x3FA, 1) == 0x01
    serial.write(0x3FA, 1, 1)
    assert serial.read(0x3FA, 1) == 0xC1
    serial.write(0x3FC, 1, 0x10)
    for value in range(20):
        serial.write(0x3F8, 1, value)
    assert [serial.read(0x3F8, 1) for _ in range(3)] == [0, 1, 2]
    serial.write(0x3FA, 1, 3)
    assert serial.read(0x3FD, 1) == 0x60
    serial.write(0x3FF, 1, 0xA5)
    assert serial.read(0x3FF, 1) == 0xA5


def test_serial_interrupts() -> None:
    levels: list[bool] = []
    serial = Serial(lambda data: None, levels.append)
    serial.write(0x3F9, 1, 2)
    assert levels == [], "OUT2 does not let it through"
    serial.write(0x3FC, 1, 8)
    assert levels == [True]
    assert serial.read(0x3FA, 1) == 2
    assert levels == [True, False]
    assert serial.read(0x3FA, 1) == 1
    serial.write(0x3F8, 1, 1)
    assert levels == [True, False, True]
    serial.write(0x3F8, 1, 1)
    assert levels == [True, False, True, False, True]
    serial.write(0x3F9, 1, 1)
    assert levels[-1] is False
    serial.write(0x3FC, 1, 0x18)
    serial.write(0x3F8, 1, 7)
    assert serial.read(0x3FA, 1) == 4


def item(fw_cfg: FwCfg, number: int, size: int) -> int:
    fw_cfg.select(0x510, 2, number)
    return sum(fw_cfg.read(0x511, 1) << 8 * n for n in range(size))


def test_fw_cfg() -> None:
    fw_cfg = FwCfg(3 << 30, 1)
    assert item(fw_cfg, 0, 4).to_bytes(4, "little") == b"QEMU"
    assert item(fw_cfg, FwCfg.RAM_SIZE, 8) == 3 << 30
    assert item(fw_cfg, FwCfg.NB_CPUS, 2) == item(fw_cfg, FwCfg.MAX_CPUS, 2) == 1
    assert item(fw_cfg, 0x1234, 4) == 0
    fw_cfg.set_command_line("a b")
    assert (
        item(fw_cfg, FwCfg.CMDLINE_DATA, item(fw_cfg, FwCfg.CMDLINE_SIZE, 4)).to_bytes(4, "little")
        == b"a b\0"
    )


def test_cmos_tells_memory_and_a_valid_clock() -> None:
    cmos = Cmos(128 << 20)

    def read(index: int) -> int:
        cmos.write(0x70, 1, index)
        return cmos.read(0x71, 1)

    assert read(0x34) | read(0x35) << 8 == 112 << 4
    assert read(0x0D) & 0x80
    assert not read(0x0A) & 0x80
    assert read(8) in (*range(1, 10), 0x10, 0x11, 0x12)
    cmos.write(0x70, 1, 0x0F)
    cmos.write(0x71, 1, 0x0A)
    assert read(0x0F) == 0x0A


def test_no_pci_device() -> None:
    pci = Pci()
    pci.write(0xCF8, 4, 0x80000000)
    assert pci.read(0xCF8, 4) == 0x80000000
    assert pci.read(0xCFC, 4) == 0xFFFFFFFF
    assert pci.read(0xCFE, 2) == 0xFFFF


def test_pit_counts_down() -> None:
    clock = Clock()
    pit = Pit(clock)
    pit.write(0x43, 1, 0xB0)
    pit.write(0x42, 1, 0xFF)
    pit.write(0x42, 1, 0xFF)
    assert not pit.read(0x61, 1) & 0x20
    clock.now += 0.02
    pit.write(0x43, 1, 0x80)
    clock.now += 0.001
    value = pit.read(0x42, 1) | pit.read(0x42, 1) << 8
    assert abs(0xFFFF - value - 0.02 * 1193182) < 2
    clock.now += 0.05
    assert pit.read(0x61, 1) & 0x20


def test_pit_interrupts() -> None:
    clock = Clock()
    changes: list[float] = []
    pit = Pit(clock, lambda: changes.append(clock.now))
    pit.write(0x43, 1, 0x34)
    pit.write(0x40, 1, 0xA9)
    assert changes == []
    pit.write(0x40, 1, 0x04)
    assert changes == [clock.now]
    assert pit.due == pytest.approx(clock.now + 0.001, abs=1e-5)
    assert not pit.tick()
    clock.now += 0.0035
    assert pit.tick()
    assert not pit.tick()
    assert pit.due == pytest.approx(clock.now + 0.0005, abs=1e-5)
    pit.write(0x40, 1, 2)
    pit.write(0x40, 1, 0)
    clock.now += 1
    assert pit.tick()
    assert pit.due == pytest.approx(clock.now + 0.0005)
    pit.write(0x43, 1, 0x30)
    pit.write(0x40, 1, 0)
    pit.write(0x40, 1, 1)
    clock.now += 1
    assert pit.tick()
    clock.now += 1
    assert not pit.tick()
    assert pit.due is None


def initialized_pic() -> tuple[Pic, list[int]]:
    changes: list[int] = []
    pic = Pic(lambda: changes.append(1))
    for port, value in ((0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1)):
        pic.write(port, 1, value)
    for port, value in ((0xA0, 0x11), (0xA1, 0x38), (0xA1, 2), (0xA1, 1)):
        pic.write(port, 1, value)
    return pic, changes


def test_pics_are_masked_until_the_guest_unmasks_them() -> None:
    pic = Pic(lambda: None)
    pic.set_line(1, level=True)
    assert not pic.pending()
    assert pic.take() is None


def test_pics() -> None:
    pic, changes = initialized_pic()
    pic.set_line(4, level=True)
    pic.set_line(12, level=True)
    assert len(changes) == 10
    assert pic.take() == 0x3C, "the second one is at line 2 of the first"
    assert not pic.pending(), "line 4 waits for it"
    pic.write(0x20, 1, 0x0B)
    pic.write(0xA0, 1, 0x0B)
    assert (pic.read(0x20, 1), pic.read(0xA0, 1)) == (4, 0x10)
    pic.write(0xA0, 1, 0x20)
    pic.write(0x20, 1, 0x62)
    assert pic.take() == 0x34
    pic.set_line(4, level=False)
    pic.set_line(4, level=True)
    assert not pic.pending(), "it is still served"
    pic.write(0x20, 1, 0x20)
    pic.write(0x21, 1, 0x10)
    assert not pic.pending()
    pic.write(0x21, 1, 0)
    assert pic.take() == 0x34
    pic.write(0x20, 1, 0x20)
    pic.write(0x4D0, 1, 0x20)
    pic.set_line(5, level=True)
    assert pic.take() == 0x35
    pic.write(0x20, 1, 0x20)
    assert pic.take() == 0x35, "a level that is still up"


def test_counters() -> None:
    counters = Counters({"pf_taken": 7}.__getitem__)
    assert counters.read(0x5C0, 4) == Counters.SIGNATURE
    counters.write(0x5C0, 4, 1 + Counters.NAMES.index("pf_taken"))
    assert counters.read(0x5C0, 4) == 7
    counters.write(0x5C0, 4, 1000)
    assert counters.read(0x5C0, 4) == 0xFFFFFFFF


def test_test_device() -> None:
    lines: list[tuple[int, bool]] = []
    flushed: list[int] = []
    device = TestDevice(lambda pin, level: lines.append((pin, level)), flushed.append)
    device.write_line(0x2005, 4, 1)
    device.flush_page(0xE4, 4, 0x5000)
    assert (lines, flushed) == ([(5, True)], [0x5000])
    device.write_memory(0xFF00FFFE, 4, 0x11223344)
    assert device.read_memory(0xFF00FFFE, 4) == 0x3344


# -- APICs -----------------------------------------------------------------------------------------------


def local_apic() -> tuple[LocalApic, list[int], Clock]:
    delivered: list[int] = []
    clock = Clock()

    def deliver() -> None:
        while apic.pending():
            vector = apic.take()
            assert vector is not None
            delivered.append(vector)

    apic = LocalApic(deliver, clock=clock)
    apic.write(APIC + 0xF0, 4, 0x1FF)
    return apic, delivered, clock


def test_apic_registers() -> None:
    apic, _, _ = local_apic()
    assert apic.read(APIC + 0x20, 4) == 0
    assert apic.read(APIC + 0x30, 4) == 0x50014
    assert apic.read(APIC + 0xF0, 4) == 0x1FF
    assert apic.read(APIC + 0x320, 4) == 0x10000
    assert apic.read(APIC + 0x31, 1) == 0x00
    assert apic.read(APIC + 0x34, 4) == 0
    apic.write(APIC + 0xE0, 4, 0)
    assert apic.read(APIC + 0xE0, 4) == 0x0FFFFFFF


def test_interrupts_wait_for_those_of_higher_priority() -> None:
    apic, delivered, _ = local_apic()
    apic.accept(0x51)
    apic.accept(0x42)
    apic.accept(0x61)
    assert delivered == [0x51, 0x61]
    assert apic.read(APIC + 0x210 + 0x10, 4) == 1 << 2
    assert apic.read(APIC + 0x100 + 0x20, 4) == 1 << 0x11
    apic.write(APIC + 0xB0, 4, 0)
    assert delivered == [0x51, 0x61]
    apic.write(APIC + 0xB0, 4, 0)
    assert delivered == [0x51, 0x61, 0x42]


def test_task_priority() -> None:
    apic, delivered, _ = local_apic()
    apic.write(APIC + 0x80, 4, 0x50)
    apic.accept(0x51)
    assert delivered == []
    assert apic.read(APIC + 0xA0, 4) == 0x50
    apic.write(APIC + 0x80, 4, 0x40)
    assert delivered == [0x51]


def test_ipis_reach_only_the_sender() -> None:
    apic, delivered, _ = local_apic()
    apic.write(APIC + 0x300, 4, 0x40041)
    apic.write(APIC + 0x310, 4, 0)
    apic.write(APIC + 0x300, 4, 0x52)
    apic.write(APIC + 0x310, 4, 5 << 24)
    apic.write(APIC + 0x300, 4, 0x63)
    apic.write(APIC + 0x300, 4, 0xC4500)
    apic.write(APIC + 0x300, 4, 0xC0074)
    assert delivered == [0x41, 0x52]
    assert not apic.read(APIC + 0x300, 4) & 0x1000


def test_timer() -> None:
    apic, delivered, clock = local_apic()
    apic.write(APIC + 0x3E0, 4, 0xB)
    apic.write(APIC + 0x320, 4, 0x40)
    apic.write(APIC + 0x380, 4, 10_000_000)
    clock.now += 0.004
    apic.tick()
    assert abs(apic.read(APIC + 0x390, 4) - 6_000_000) < 10
    assert delivered == []
    clock.now += 0.007
    apic.tick()
    apic.tick()
    assert delivered == [0x40]
    assert apic.read(APIC + 0x390, 4) == 0
    apic.write(APIC + 0xB0, 4, 0)
    apic.write(APIC + 0x320, 4, 0x20040)
    apic.write(APIC + 0x380, 4, 10_000_000)
    for _ in range(3):
        clock.now += 0.0101
        apic.tick()
        apic.write(APIC + 0xB0, 4, 0)
    assert delivered == [0x40] * 4


def test_tsc_deadline() -> None:
    apic, delivered, clock = local_apic()
    apic.write_deadline(5)
    assert apic.due is None, "the timer is not in that mode"
    apic.write(APIC + 0x320, 4, 0x40040)
    apic.write_deadline(3_000_000)
    assert apic.read_deadline() == 3_000_000
    assert apic.due == pytest.approx(clock.now + 0.003)
    clock.now += 0.0031
    apic.tick()
    assert delivered == [0x40]
    assert apic.read_deadline() == 0


def test_x2apic() -> None:
    base = 0xFEE00900
    changes: list[int] = []
    apic = LocalApic(lambda: changes.append(1), base=lambda: base)
    assert apic.read_msr(0x30) is None
    base = 0xFEE00D00
    assert apic.read(APIC + 0x30, 4) == 0xFFFFFFFF
    assert apic.read_msr(0x30) == 0x50014
    assert apic.write_msr(0xF0, 0x1FF)
    assert not apic.write_msr(0x30, 0)
    for register in (0x80, 0xB0, 0xF0, 0x350, 0x380, 0x3F0):
        assert not apic.write_msr(register, 1 << 32)
    assert not apic.write_msr(0x280, 1)
    assert not apic.write_msr(0x3F0, 0x100)
    assert not apic.write_msr(0x300, 1 << 20)
    assert apic.write_msr(0x80, 0x110)
    assert apic.read_msr(0x80) == 0x10
    assert apic.write_msr(0x80, 0)
    assert apic.write_msr(0xB0, 1)
    assert apic.write_msr(0xF0, 0x7FF)
    assert apic.read_msr(0xF0) == 0x3FF
    assert apic.write_msr(0x350, 0x200FF)
    assert apic.read_msr(0x350) == 0xFF
    assert apic.write_msr(0x3F0, 0x41)
    assert apic.pending()
    assert apic.read_msr(0x220) == 2
    apic.task_priority = 4
    assert not apic.pending()
    apic.task_priority = 0
    assert apic.take() == 0x41
    assert apic.read_msr(0x120) == 2
    base = 0xFEE00100
    apic.base_changed()
    assert apic.in_service == 0
    assert apic.passes_pic


def io_apic_write(io_apic: IoApic, register: int, value: int) -> None:
    io_apic.write(0xFEC00000, 4, register)
    io_apic.write(0xFEC00010, 4, value)


def test_io_apic() -> None:
    accepted: list[int] = []
    io_apic = IoApic(accepted.append)
    io_apic.write(0xFEC00000, 4, 1)
    assert io_apic.read(0xFEC00010, 4) == 0x170011
    io_apic.set_line(4, True)
    assert accepted == [], "lines are masked after a reset"
    io_apic.set_line(4, False)
    io_apic_write(io_apic, 0x18, 0x32)
    io_apic.set_line(4, True)
    io_apic.set_line(4, True)
    assert accepted == [0x32]
    io_apic_write(io_apic, 0x1A, 0x8033)
    io_apic.set_line(5, True)
    assert accepted == [0x32, 0x33]
    io_apic.end_of_interrupt(0x33)
    assert accepted == [0x32, 0x33, 0x33], "a level-triggered line that is still up interrupts again"
    io_apic.set_line(5, False)
    io_apic.end_of_interrupt(0x33)
    assert accepted == [0x32, 0x33, 0x33]
