"""`shadowmmu decode`: a word of the MMU, bit by bit, and what follows from it."""

from __future__ import annotations

import json
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import kernel_option, refuse_ignored
from shadowmmu.cli.manual import Manual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmmu.show.decode import Decoded

__all__ = ["decode"]

_KINDS = ("role", "spte", "gpte", "ept", "pferr", "exit", "cpu-role")
_LEVELS_OF_MODE = {"long4": 4, "long5": 5, "pae": 3, "32": 2}
_WIDEST = 110


@click.command(
    cls=Manual,
    short_help="Say what a word of the MMU means: a role, an SPTE, an error code ...",
    statuses={"0": "The words were decoded."},
    examples={
        "shadowmmu decode role 0x3713": "What a role says of a shadow page",
        "shadowmmu decode spte a65 'gpa:806000|e67'": "Why one SPTE is read-only and another is not",
        "shadowmmu decode gpte 80000e7 --level 2": "A huge entry of a guest's table",
        "shadowmmu decode pferr 7": "An error code of a page fault",
        "shadowmmu decode --json exit EPT_VIOLATION --vendor intel": "An exit reason, for a program",
    },
)
@click.argument("kind", type=click.Choice(_KINDS), metavar="|".join(_KINDS))
@click.argument("words", metavar="WORD...", nargs=-1, required=True)
@kernel_option
@click.option(
    "--vendor",
    type=click.Choice(["amd", "intel"]),
    help="Whose exit codes, and whose reserved bits in guest entries.",
)
@click.option(
    "--host-bits",
    metavar="N",
    type=click.IntRange(32, 52),
    help="Bits of a physical address: of the host for spte and ept, of the guest for gpte.",
)
@click.option(
    "--l1tf",
    metavar="N",
    type=click.IntRange(32, 46),
    help="The host is vulnerable to L1TF, its L1 cache uses N bits of a physical address: for spte and ept.",
)
@click.option("--level", metavar="L", type=click.IntRange(1, 5), help="The level of the entry's table.")
@click.option(
    "--mode",
    type=click.Choice(list(_LEVELS_OF_MODE)),
    help="The guest's paging mode, for gpte; default long4 (4-level paging).",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each word, on a line of its own."
)
def decode(
    *,
    kind: str,
    words: tuple[str, ...],
    kernel: str | None,
    vendor: str | None,
    host_bits: int | None,
    l1tf: int | None,
    level: int | None,
    mode: str | None,
    as_json: bool,
) -> None:
    """Say what WORDs mean: every bit by name, what KVM prints, and what follows.

    Words are hexadecimal, with or without 0x. An spte may also be written as `run` prints it: a65, '|ee7',
    'S7|827', 'gpa:806000|e67', mmio:80000d0001017, frozen. An exit may be a name, npf or EPT_VIOLATION; VMX
    numbers (--vendor intel) are decimal.

    spte is the format of shadow paging and NPT (Intel's with ept=0, too), ept that of EPT.
    """
    from shadowmmu.show.decode import WordError

    _refuse_unused(kind)
    try:
        for number, word in enumerate(words):
            found = _decoded(kind, word, kernel, vendor, host_bits, l1tf, level, mode)
            if as_json:
                click.echo(json.dumps(found.as_json()))
                continue
            if number:
                click.echo()
            for line in _lines(found, min(get_terminal_size().columns, _WIDEST)):
                click.echo(line)
    except WordError as error:
        raise click.ClickException(str(error)) from None


def _refuse_unused(kind: str) -> None:
    """Raise UsageError for options that this kind of word does not depend on."""
    used = {
        "spte": {"kernel", "host_bits", "l1tf", "level"},
        "ept": {"kernel", "host_bits", "l1tf", "level"},
        "gpte": {"vendor", "host_bits", "level", "mode"},
        "exit": {"vendor"},
    }.get(kind, {"kernel"})
    options = {"kernel": "--kernel", "vendor": "--vendor", "host_bits": "--host-bits", "l1tf": "--l1tf",
               "level": "--level", "mode": "--mode"}  # fmt: skip
    refuse_ignored(
        {name: option for name, option in options.items() if name not in used},
        f"makes no difference to {kind}; leave it out",
    )


def _decoded(
    kind: str,
    word: str,
    kernel: str | None,
    vendor: str | None,
    host_bits: int | None,
    l1tf: int | None,
    level: int | None,
    mode: str | None,
) -> Decoded:
    from shadowmmu.guest.scenario.host_processor import HostError, HostProcessor
    from shadowmmu.kvm.design.design import design_of
    from shadowmmu.kvm.design.switches import DEFAULT_KERNEL
    from shadowmmu.kvm.tracepoints.role_layout import layout_of
    from shadowmmu.show import decode as words

    design = design_of(kernel or DEFAULT_KERNEL)
    layout = layout_of(design)
    match kind:
        case "role":
            return words.decode_role(words.parse_word(word, 32, "role"), layout)
        case "cpu-role":
            return words.decode_cpu_role(words.parse_word(word, 64, "CPU role"), layout)
        case "pferr":
            return words.decode_pferr(words.parse_word(word, 64, "error code"))
        case "exit":
            vmx = vendor == "intel"
            return words.decode_exit(words.parse_exit(word, vmx=vmx), vmx=vmx)
        case "gpte":
            levels = _LEVELS_OF_MODE[mode or "long4"]
            form = words.GpteFormat(levels=levels, maxphyaddr=host_bits or 52, amd=vendor != "intel")
            if level is not None and level > levels:
                raise words.WordError(f"mode {mode or 'long4'} has no level {level}; it has {levels} levels")
            return words.decode_gpte(words.parse_word(word, form.bits, "guest entry"), level=level, form=form)
    spte = words.parse_spte(word)
    make = words.decode_spte if kind == "spte" else words.decode_ept
    try:
        host = HostProcessor(maxphyaddr=host_bits or l1tf or 52, l1tf=l1tf or 0)
        host.check(vmx=True)
    except HostError as error:
        raise words.WordError(str(error)) from None
    return make(spte, level=level, design=design, host=host)


def _lines(found: Decoded, width: int) -> Iterator[str]:
    yield f"{click.style(f'{found.kind} {found.word:#x}', bold=True)}: {found.title}"
    name_width = max((len(field.name) for field in found.fields), default=0)
    value_width = max((len(f"{field.value:#x}") for field in found.fields), default=0)
    for field in found.fields:
        head = f"  {field.bits:>5}  {field.name:<{name_width}}  {f'{field.value:#x}':<{value_width}}  "
        first, *others = wrap(field.meaning, max(width - len(head), 20)) or [""]
        style = {} if field.value else {"dim": True}
        yield click.style(f"{head}{first}", **style)
        for line in others:
            yield click.style(f"{'':{len(head)}}{line}", **style)
    if found.printed:
        yield f"  KVM prints: {found.printed}"
    for sentence in found.implies:
        yield from wrap(sentence, width, initial_indent="- ", subsequent_indent="  ")
