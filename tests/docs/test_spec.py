"""The specification: every paragraph that is cited is there, and what it gives as examples is so."""

import re
from pathlib import Path

import pytest
from docs.examples import ROOT

SPEC = ROOT / "docs" / "spec"
NAMES = {"specification": "shadow-mmu"}
"""How citations name a page that is not called so."""
NUMBER = r"(?:appendix [A-F]|[0-9]+(?:\.[0-9]+[a-z]?)?)"
LIST = rf"{NUMBER}(?:(?:, | and | to |, and )(?:test vectors of )?{NUMBER})*"
CITATION = re.compile(rf"\b(specification|sptes-and-logging|tracepoints-and-stats) ({LIST})")
PAGES = ("shadow-mmu", "sptes-and-logging", "tracepoints-and-stats", "races")


def numbers_of(page):
    """The numbers of a page's paragraphs, from its headings."""
    text = (SPEC / f"{page}.md").read_text()
    found = re.findall(
        r"^#{2,4} (?:Appendix ([A-F])\.|([0-9]+(?:\.[0-9]+[a-z]?)?)\.? |([LTR])\. )", text, re.MULTILINE
    )
    return ["".join(groups) for groups in found]


def citations():
    """(file, page, paragraph) of every citation in tests and sources."""
    for folder in ("tests", "src", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = " ".join(path.read_text().split())
            for name, listed in CITATION.findall(text):
                for number in re.findall(NUMBER, listed):
                    yield path.relative_to(ROOT), NAMES.get(name, name), number.removeprefix("appendix ")


def test_paragraphs_are_cited():
    assert len(list(citations())) > 40


@pytest.mark.parametrize(("file", "page", "number"), sorted(set(citations())), ids=lambda value: str(value))
def test_a_cited_paragraph_is_there(file, page, number):
    if file == Path("src/shadowmmu/guest/pc/multiboot.py"):
        return  # the multiboot specification
    assert number in numbers_of(page)


@pytest.mark.parametrize("page", PAGES)
def test_a_number_belongs_to_one_paragraph(page):
    numbers = numbers_of(page)
    assert len(numbers) == len(set(numbers)) > 2


@pytest.mark.parametrize("page", PAGES)
def test_a_paragraph_mentioned_in_a_page_is_there(page):
    text = (SPEC / f"{page}.md").read_text()
    mentioned = set(re.findall(r"§(\d+(?:\.\d+[a-z]?)?|[LTR]\b)", text))
    assert mentioned <= set(numbers_of(page))


def vectors(heading):
    """The line of appendix E that begins with these words."""
    text = (SPEC / "shadow-mmu.md").read_text().partition("## Appendix E")[2]
    return text[text.index(heading) :].partition("\n\n")[0]


@pytest.mark.parametrize("function", ["hash_64", "gfn"])
def test_the_hash_buckets_of_appendix_e_are_those_of_the_model(function):
    from shadowmmu import Vm

    bits = {"hash_64": "12", "gfn": "10"}[function]
    kvm = Vm("1M", design={"hash_function": function, "hash_bits": bits}).machine.kvm
    triples = re.findall(r"(0x[0-9a-f]+|\d+)→(\d+) \((\d+)\)", vectors("Hash bucket"))
    assert len(triples) == 10
    for gfn, new, old in triples:
        assert kvm.hash_bucket(int(gfn, 0)) == int(old if function == "gfn" else new)


def test_the_statistics_of_appendix_c_are_those_of_the_model():
    from shadowmmu.kvm.state.stats import VCPU_STATS, VM_STATS

    text = (SPEC / "shadow-mmu.md").read_text().partition("## Appendix C")[2].partition("`[2013]`")[0]
    named = {name.partition("/")[0] for name in re.findall(r"`([a-z0-9_]+)(?:/[^`]*)?`", text)}
    assert named
    assert named <= {*VM_STATS, *VCPU_STATS}


def test_the_role_bits_of_paragraph_2_2_are_those_of_the_model():
    from shadowmmu.kvm import bits

    text = (SPEC / "shadow-mmu.md").read_text().partition("### 2.2")[2].partition("###")[0]
    rows = re.findall(r"^\| (\d+)(?::(\d+))? \| `(\w+)`", text, re.MULTILINE)
    assert len(rows) == 14
    for high, low, name in rows:
        mask = (2 << int(high)) - (1 << int(low or high))
        constant = {"has_4_byte_gpte": "4BYTE_GPTE", "smm": "", "smep_andnot_wp": "SMEP"}.get(
            name, name.upper()
        )
        assert not constant or getattr(bits, f"ROLE_{constant}") == mask, name
