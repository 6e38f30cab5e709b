"""Names of host addresses, above all the numbering of shadow pages."""

import pytest

from shadowmmu.kvm.tracepoints.mmu import GetPage, PrepareZapPage
from shadowmmu.trace.names import Names

ROLE = 0x3701
DIRECT = 1 << 7
INVALID = 1 << 11


def page(hpa: int, gfn: int = 1, role: int = ROLE, **fields) -> dict:
    defaults = dict.fromkeys(("unsync", "unsync_children", "gen", "root_count", "flood", "nxd", "tdp"), 0)
    empty = {"off_list": False, "parents": [], "sptes": {}, "translations": None, "none63": 512}
    return {"hpa": hpa, "gfn": gfn, "role": role, **defaults, **empty, **fields}


def raw(*sps: dict, pfns: dict | None = None, vcpus: tuple = ()) -> dict:
    numbers = dict.fromkeys(("used", "max", "gen", "indirect", "slots_gen"), 0)
    parts = {key: [] for key in ("slots", "rmap", "lpage", "wtrack")}
    return {**numbers, **parts, "sps": list(sps), "vcpus": list(vcpus), "pfns": pfns or {}}


def zap(gfn: int = 1, role: int = ROLE) -> PrepareZapPage:
    return PrepareZapPage(0, gfn, role, 0, 0)


def made(gfn: int = 1, role: int = ROLE, created: int = 1) -> GetPage:
    return GetPage(0, gfn, role, 0, 0, created)


def order(names: Names, *sps: dict, events: tuple = ()) -> list[str]:
    return names.state(raw(*sps), events)["order"]


def test_pages_are_numbered_oldest_first():
    names = Names({})
    assert order(names, page(0x3000, 3), page(0x2000, 2), page(0x1000, 1)) == ["S3", "S2", "S1"]
    assert order(names, page(0x4000, 4), page(0x2000, 2)) == ["S4", "S2"]


def test_another_gfn_or_role_at_the_address_is_another_page():
    names = Names({})
    assert order(names, page(0x1000, 1)) == ["S1"]
    assert order(names, page(0x1000, 2)) == ["S2"]
    assert order(names, page(0x1000, 2, ROLE | DIRECT)) == ["S3"]


def test_an_invalid_page_keeps_its_number():
    names = Names({})
    order(names, page(0x1000))
    state = names.state(raw(page(0x1000, role=ROLE | INVALID, off_list=True)), ())
    assert list(state["sps"]) == ["S1"]
    assert state["order"] == []
    assert state["sps"]["S1"]["off_list"] == 1
    assert state["sps"]["S1"]["invalid"] == 1


@pytest.mark.parametrize(
    ("events", "number"),
    [
        ((zap(), made()), "S2"),
        ((made(), zap()), "S1"),
        ((zap(), made(created=0)), "S1"),
        ((zap(gfn=2), made()), "S1"),
        ((zap(), made(role=ROLE | DIRECT)), "S1"),
    ],
)
def test_zapped_and_made_again_is_another_page(events, number):
    names = Names({})
    order(names, page(0x1000))
    assert order(names, page(0x1000), events=events) == [number]


def test_an_address_is_free_after_one_op_without_it():
    names = Names({})
    assert order(names, page(0x1000)) == ["S1"]
    assert order(names) == []
    assert names.sptep(0x1018) == "S1[3]"  # the page before
    assert order(names) == []
    assert names.sptep(0x1018) == "?1018"
    assert order(names, page(0x1000)) == ["S2"]


def test_values():
    names = Names({7: (0x7000_0000, 0x2000, 0x80_0000)})
    names.state(raw(page(0x1000), pfns={5: 0x80_0000, 0x200: 0x20_0000, 9: "zero", 0x400: 0x1000}), ())
    assert names.spte(1 << 63) == "none63"
    assert names.spte(0) == "none"
    assert names.spte(0x1827) == "S1|827"
    assert names.spte(0x1827, leaf=True) == "pfn?1|827"
    assert names.spte(0x5E67) == "gpa:800000|e67"
    assert names.spte(9 << 12 | 0x825) == "zero|825"
    assert names.spte(1 << 63 | 0x5E67) == "gpa:800000|8000000000000e67"
    assert names.spte(0x80000D0000027) == "mmio:80000d0000027"
    assert names.pfn(0x234) == "gpa:234000"  # inside a 2 MiB page whose first frame is known
    assert names.pfn(0x401) == "pfn?401"  # its first frame backs no 2 MiB page
    assert names.pfn(1 << 63) == "noslot"
    assert names.pfn(1 << 63 | 2) == "error:8000000000000002"
    assert names.pointer(0) == "null"
    assert names.hva(0x7000_1000) == "gpa:801000"
    assert names.hva(0x7000_2000) == "gpa:802000"  # the end of a range
    assert names.hva(0x7000_2001) == "hva?70002001"


def test_what_backed_a_page_is_remembered():
    names = Names({})
    names.state(raw(pfns={5: 0x80_0000}), ())
    names.state(raw(), ())
    assert names.pfn(5) == "gpa:800000"


def test_roots():
    names = Names({})
    vcpu = {
        "id": 1,
        "root": (1 << 64) - 1,
        "pgd": 0x1000,
        "cpu_role": (3, 0),
        "root_role": 4,
        "prev": [(0x2000, 0x1000)],
    }
    state = names.state(raw(page(0x1000), vcpus=(vcpu,)), ())
    assert state["vcpus"] == {
        "1": {"pgd": "-", "root": "invalid", "cpu_role": "3", "root_role": "4", "prev": [["2000", "S1"]]}
    }
    vcpu |= {"root": 0x9000, "pae_root": [0x1001, 0, 0, 0], "pml4_root": 0, "prev": [(0, (1 << 64) - 1)]}
    state = names.state(raw(page(0x1000), vcpus=(vcpu,)), ())
    assert state["vcpus"]["1"]["root"] == "pae_root"
    assert state["vcpus"]["1"]["pae_root"] == ["S1|1", "none", "none", "none"]
    assert state["vcpus"]["1"]["prev"] == []
