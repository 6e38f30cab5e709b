"""The lines after `start`: what each operation comes to, and what is refused."""

import pytest
from guest.language import op, parse

from shadowmmu.guest.scenario import ops
from shadowmmu.guest.scenario.setup import ScenarioError, SlotSetup


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        ("read 0x400000", ops.Access, {"kind": "read", "user": False, "gva": 0x400000, "size": 8}),
        ("@1 uread 4M size=2", ops.Access, {"vcpu": 1, "user": True, "gva": 4 << 20, "size": 2}),
        ("write 0x10 0x1234 size=1", ops.Access, {"kind": "write", "value": 0x34, "size": 1}),
        ("uwrite 0x10", ops.Access, {"kind": "write", "value": 0}),
        ("xchg 0x10 017", ops.Access, {"kind": "xchg", "value": 15}),
        ("add 0x10 1K size=4", ops.Access, {"kind": "add", "value": 1024, "size": 4}),
        ("cmpxchg 0x10 1 2", ops.Access, {"kind": "cmpxchg", "value": 1, "expected": 2}),
        ("stos 0x10 0x123456789 n=3", ops.Access,
         {"kind": "stos", "value": 0x23456789, "size": 4, "count": 3}),
        ("  nop", ops.Nop, {"user": False, "text": "  nop"}),
        ("unop   # comment", ops.Nop, {"user": True, "text": "unop"}),
        ("uexec 0x1", ops.Exec, {"user": True, "gva": 1}),
        ("invlpg 0x1", ops.Invlpg, {"gva": 1}),
        ("cr4 0x20", ops.WriteCr, {"cr": 4, "value": 0x20}),
        ("efer 0xd00", ops.WriteMsr, {"index": 0xC0000080, "value": 0xD00}),
        ("wrmsr 0x10 1", ops.WriteMsr, {"index": 0x10, "value": 1}),
        ("@1 ac on", ops.SetAc, {"vcpu": 1, "on": True}),
        ("dump off", ops.SetDump, {"on": False}),
        ("watch 0x800000", ops.WatchPage, {"gpa": 0x800000}),
        ("slot 2 1G 64K dirty keep skew=0x1000", ops.SetSlot,
         {"slot": SlotSetup(2, 1 << 30, 1 << 16, 1, "dirty keep skew=0x1000", skew=4096), "keep": True}),
        ("delslot 5", ops.DeleteSlot, {"slot": 5}),
        ("movslot 1 0x30000000", ops.MoveSlot, {"slot": 1, "gpa": 0x30000000}),
        ("dirtylog on 1", ops.SetSlotFlag, {"slot": 1, "flag": 1, "on": True}),
        ("roflag off 0", ops.SetSlotFlag, {"slot": 0, "flag": 2, "on": False}),
        ("getdirty 1", ops.GetDirty, {"slot": 1}),
        ("cleardirty 1 64 128", ops.ClearDirty, {"slot": 1, "first": 64, "pages": 128}),
        ("cap 168 3", ops.EnableCap, {"cap": 168, "arg": 3}),
        ("nrmmu 64", ops.SetMmuPages, {"pages": 64}),
        ("madvise_dontneed 0x800000 4K", ops.Madvise, {"gpa": 0x800000, "length": 4096, "advice": 4}),
        ("madvise 0x800000 8K 14", ops.Madvise, {"length": 8192, "advice": 14}),
        ("mprotect 0x800000 4K none", ops.Mprotect, {"protection": "none"}),
        ("remap 0x800000 4K", ops.Remap, {"gpa": 0x800000}),
        ("hosttouch 0x800000 4K", ops.HostTouch, {"length": 4096}),
        ("age 0x800000 8K", ops.Age, {"gpa": 0x800000, "length": 8192, "flush": False}),
        ("age 0x800000 4K flush", ops.Age, {"flush": True}),
        ("@1 harvestring", ops.HarvestRing, {"vcpu": 1}),
        ("resetrings", ops.ResetRings, {}),
        ("hostread 0x800004 size=4", ops.HostRead, {"gpa": 0x800004, "size": 4}),
        ("hostwrite 0x800000 7", ops.HostWrite, {"gpa": 0x800000, "value": 7, "size": 8}),
        ("pt 0x4000 511 0x67", ops.SetGpte, {"gpa": 0x4FF8, "size": 8, "value": 0x67}),
        ("modparam kvm nx_huge_pages off", ops.ModParam, {"name": "nx_huge_pages", "value": "off"}),
        ("sysfs /sys/x 1", ops.Sysfs, {"path": "/sys/x", "value": "1"}),
        ("sleep_ms 10", ops.Sleep, {"milliseconds": 10}),
        ("@1 hostsregs cr3=0x10000", ops.HostSregs, {"vcpu": 1, "cr0": None, "cr3": 0x10000, "efer": None}),
        ("translate 0x400000", ops.Translate, {"gva": 0x400000}),
        ("prefault 0x800000 4K", ops.Prefault, {"gpa": 0x800000, "length": 4096}),
        ("meanwhile 2 @1 nop", ops.Meanwhile,
         {"vcpu": 0, "drop": 2, "op": ops.Nop(line=8, text="@1 nop", vcpu=1, user=False)}),
    ],
)  # fmt: skip
def test_op(line, kind, fields):
    parsed = op(line)
    assert type(parsed) is kind
    assert parsed.line == 8
    assert {name: getattr(parsed, name) for name in fields} == fields


def test_default_size_is_the_mode_s():
    assert op("read 0x1", "pae").size == 4
    assert op("cmpxchg 0x1 1 2 size=8", "pae").size == 8
    assert op("hostread 0x800000", "32").size == 4
    assert op("pt 0x1000 1023 1", "32").gpa == 0x1FFC


def test_slots_are_followed():
    parse("delslot 1", "slot 1 0x20000000 1M", "getdirty 1", "hosttouch 0x20000000 4K")
    parse("movslot 1 0x30000000", "hostread 0x30000000")
    with pytest.raises(ScenarioError, match="no slot has guest address 0x10000000"):
        parse("movslot 1 0x30000000", "hostread 0x10000000")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("jump 0x1", "unknown word `jump`"),
        ("raed 0x1", "unknown word `raed`; did you mean `read`?"),
        ("uinvlpg 0x1", "unknown word `uinvlpg`"),
        ("map 1 2 3 4", "`map` is not an operation; put it before `start`"),
        ("l2read 0x1", "`l2read` needs a guest that is a hypervisor; put `nested` before `start`"),
        ("@2 nop", "there is no vCPU 2"),
        ("@ nop", "`@ nop` selects no vCPU"),
        ("@1", "`@1` selects no vCPU"),
        pytest.param("@" + "1" * 5000 + " nop", "selects no vCPU", id="long vCPU"),
        pytest.param("read " + "1" * 5000, "is out of range", id="long number"),
        ("@-1 nop", "`@-1 nop` selects no vCPU"),
        ("@1 dump on", "`dump` belongs to no vCPU"),
        ("meanwhile 1", "`meanwhile` lacks an operation; write `meanwhile N OP`"),
        ("meanwhile 0 nop", "number 0 is out of range"),
        ("meanwhile 1 @2 nop", "there is no vCPU 2"),
        ("meanwhile 1 getdirty 1", "`getdirty 1` is not what a guest does; put it on a line of its own"),
        ("read", "`read` lacks an argument; write `read GVA [size=N]`"),
        ("read 0x1 2 3", "`3` is not understood after `read`"),
        ("read 0x1 size=3", "`read` has no 3-byte form in mode long4; use size=1|2|4|8"),
        ("read 0x1 size=8K", "size= `8K` is not a number"),
        ("read 0x1 len=8", "`read` has no option `len=`"),
        ("read 0x1 size=1 size=1", "`size=` is given twice"),
        ("read size=1 0x1", "`0x1` is not understood after `read`"),
        ("read 0xg", "address `0xg` is not a number"),
        ("read 08", "address `08` is not a number"),
        ("read -1", "address `-1` is not a number"),
        ("read 1T", "address `1T` is not a number"),
        ("read 0x10000000000000000", "address 0x10000000000000000 is out of range"),
        ("read 0xffffffffffffffffK", "out of range"),
        ("xchg 0x1 1 size=1", "`xchg` has no 1-byte form"),
        ("stos 0x1 1 size=4", "`stos` has no option `size=`"),
        ("stos 0x1 1 n=0x200000", "n= 0x200000 is out of range"),
        ("cmpxchg 0x1 1", "`cmpxchg` lacks an argument"),
        ("nop 1", "`1` is not understood after `nop`"),
        ("wrmsr 0x100000000 1", "MSR 0x100000000 is out of range"),
        ("ac maybe", "`maybe` is not one of on, off"),
        ("getdirty 2", "there is no slot 2 at this point; use one of: 0, 1, 63"),
        ("dirtylog on 2", "there is no slot 2"),
        ("movslot 2 0x0", "there is no slot 2"),
        ("delslot 63", "slot 63 holds the guest's own code"),
        ("delslot 64", "slot 64 is out of range"),
        ("slot 63 0x0 4K", "slot 63 holds the guest's own code"),
        ("slot 2 0x0 1000", "size 1000 is not a multiple of 4K"),
        ("slot 2 0x800 4K", "address 0x800 is not a multiple of 4K"),
        ("slot 2 0x0 0", "size 0 is out of range"),
        ("slot 2 0xffffffffff000 8K", "guest addresses end at 0x10000000000000"),
        ("slot 2 0x0 4K huge2m", "do not fit huge2m pages"),
        ("slot 2 0x0 2M thp huge2m", "`thp` and `huge2m` exclude each other"),
        ("slot 2 0x0 4K skew=1", "skew=1 is not a multiple of 4K"),
        ("slot 2 0x0 4K big", "`big` is not understood after `slot`"),
        ("madvise 0x800000 100 4", "length 100 is not a multiple of 4K"),
        ("remap 0xfff000 8K", "0xfff000 + 0x2000 is beyond the slot; it ends at 0x1000000"),
        ("hostread 0x50000000", "no slot has guest address 0x50000000 at this point"),
        ("hostread 0x800000 size=2", "`hostread` has no 2-byte form"),
        ("hostwrite 0x800000 0x100000000 size=4", "value 0x100000000 is out of range"),
        ("pt 0x1000 512 0", "index 512 is out of range"),
        ("mprotect 0x800000 4K rx", "`rx` is not one of ro, rw, none"),
        ("modparam e1000 a b", "`e1000` is not one of kvm, kvm_amd"),
        ("hostsregs cr2=1", "`hostsregs` has no option `cr2=`"),
        ('sysfs /sys/x "1"', "a quote or backslash"),
    ],
)
def test_refused_ops_name_file_line_and_mend(line, message):
    with pytest.raises(ScenarioError) as caught:
        parse(line)
    text = str(caught.value)
    assert text.startswith("x.txt:8: ")
    assert message in text
    assert "; " in text


@pytest.mark.parametrize(
    ("line", "mode", "message"),
    [
        ("read 0x1 size=8", "pae", "`read` has no 8-byte form in mode pae; use size=1|2|4"),
        ("read 0x100000000", "32", "address 0x100000000 is out of range"),
        ("cr3 0x100000000", "pae", "value 0x100000000 is out of range"),
        ("pt 0x1000 0 0x100000000", "32", "entry 0x100000000 is out of range"),
        ("pt 0x1000 1024 0", "32", "index 1024 is out of range"),
    ],
)
def test_refused_in_a_mode(line, mode, message):
    with pytest.raises(ScenarioError, match=r"x.txt:8: ") as caught:
        op(line, mode)
    assert message in str(caught.value)
