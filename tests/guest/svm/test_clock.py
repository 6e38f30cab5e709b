"""The virtual clock of a machine: it follows the code executed, and nothing else."""

import time

import pytest

pytest.importorskip("unicorn")
pytest.importorskip("iced_x86")

from shadowmmu.guest.svm.clock import EXIT_NS, HOST_CLOCK, VirtualClock
from shadowmmu.guest.svm.machine import SvmMachine

CODE, TABLE = 0x10000, 0x1000


def spinning(code: bytes) -> tuple[SvmMachine, VirtualClock]:
    clock = VirtualClock()
    machine = SvmMachine(1 << 20, clock=clock)
    machine.write(TABLE, (0x2007).to_bytes(8, "little"))
    machine.write(0x2000, (0x3007).to_bytes(8, "little"))
    machine.write(0x3000, (0x87).to_bytes(8, "little"))
    machine.write(CODE, code)
    machine.start_long(CODE, TABLE)
    return machine, clock


def test_time_passes_by_the_bytes_of_code_and_the_exits():
    machine, clock = spinning(b"\xb9\x64\0\0\0\xff\xc9\x75\xfc\x0f\xa2\xf4")  # mov ecx, 100; loop; cpuid; hlt
    start = clock.time_ns()
    assert machine.run().reason == "hlt"
    passed = clock.time_ns() - start
    exits = machine.exits.total()
    assert 400 <= passed - EXIT_NS * exits <= 400 + 16 * (exits + 2)


def test_a_timer_comes_at_the_same_instruction_in_each_run():
    def counted() -> list[int]:
        machine, _ = spinning(b"\x48\xff\xc0\xeb\xfb")  # inc rax; jmp
        found: list[int] = []

        def idle() -> None:
            found.append(machine.get("rax"))
            if len(found) == 5:
                machine.stop()

        machine.on_idle(idle, every=0.0001)
        machine.run()
        return found

    first = counted()
    assert first == counted()
    assert len(set(first)) == 5


def test_a_limit_in_seconds_is_one_of_this_clock():
    machine, clock = spinning(b"\xeb\xfe")
    before = clock.now()
    assert machine.run(seconds=0.002).reason == "seconds"
    assert 0.002 <= clock.now() - before < 0.003


def test_sleeping_takes_no_time_but_moves_the_clock():
    clock = VirtualClock()
    before, host = clock.now(), time.monotonic()
    clock.sleep(3600)
    assert clock.now() - before == pytest.approx(3600)
    assert time.monotonic() - host < 60


def test_who_sleeps_until_a_time_is_past_it():
    clock = VirtualClock()
    for number in range(1, 2000):
        due = clock.now() + 1 / number
        clock.sleep(due - clock.now())
        if clock.now() < due:
            clock.sleep(due - clock.now())
        assert clock.now() >= due


def test_clocks_that_do_not_exist_are_refused_as_the_host_does():
    with pytest.raises(OSError):
        VirtualClock().clock_ns(99)
    with pytest.raises(OSError):
        HOST_CLOCK.clock_ns(99)


def test_the_clocks_of_the_wall_differ_from_the_others():
    clock = VirtualClock()
    assert clock.clock_ns(time.CLOCK_REALTIME) == clock.time_ns()
    assert clock.clock_ns(time.CLOCK_MONOTONIC) == pytest.approx(clock.now() * 1e9)
