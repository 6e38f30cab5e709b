"""Points as they are written."""

import pytest

from shadowmmu.guest.observe.point import Point, PointError, parse_point


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("0x401000", Point("rip", 0x401000)),
        ("main", Point("symbol", 0, "main")),
        ("main+0x10", Point("symbol", 16, "main")),
        ("_ZN3foo3barEv", Point("symbol", 0, "_ZN3foo3barEv")),
        ("exit:12", Point("exit", 12)),
        ("gva:0x400000", Point("gva", 0x400000)),
        ("gva:0x400000#2", Point("gva", 0x400000, count=2)),
        ("syscall:mmap", Point("syscall", 0, "mmap")),
        ("syscall:mmap#3", Point("syscall", 0, "mmap", 3)),
        ("event:kvm_mmu_sync_page#2", Point("event", 0, "kvm_mmu_sync_page", 2)),
    ],
)
def test_a_point_is_read_as_it_is_shown(text, point):
    assert parse_point(text) == point
    assert str(point) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("12", "must be a point"),
        ("exit:0", "numbered from 1"),
        ("exit:x", "must be a point"),
        ("gva:0x10000000000000000", "64 bits"),
        ("syscall:mmapp", "do you mean mmap?"),
        ("event:kvm_mmu_sync_pag", "do you mean kvm_mmu_sync_page?"),
        ("syscall:mmap#0", "the first time is #1"),
        ("", "must be a point"),
        ("a b", "must be a point"),
    ],
)
def test_what_is_no_point_says_what_is(text, says):
    with pytest.raises(PointError, match=says.replace("?", r"\?")):
        parse_point(text)
