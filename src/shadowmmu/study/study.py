"""What a study is: a question, alternatives measured on the same inputs, and the sentence it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .catalogue import named
from .configuration import Configuration
from .costs import Costs
from .results import Results
from .sweep.processes import results_of
from .sweep.run import Run

__all__ = ["Alternative", "Case", "Results", "Study", "run_study", "verdict_of"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """One side of an argument.

    Attributes:
        label: Its name, short.
        configuration: The machine that has it.
        unsafe: Why it must not be used; "" if it may.
    """

    label: str
    configuration: Configuration
    unsafe: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """An input on which the alternatives are measured.

    Attributes:
        label: Its name, short.
        workload: The workload.
        parameters: Those of its parameters that are not the defaults.
    """

    label: str
    workload: str
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Study:
    """A question with what answers it.

    Attributes:
        name: Its name on the command line; those of mails begin with the mail's number.
        question: The question.
        about: Who asked it and what is compared, a paragraph.
        cases: The inputs.
        alternatives: The sides; the first is that of the default kernel.
        columns: Counters that the table shows, most telling first.
        plotted: Counter that the picture shows; also `seconds`, `longest_hold`.
        verdict: Returns the answer in sentences that the results support.
        logarithmic: The picture's axis is logarithmic.
    """

    name: str
    question: str
    about: str
    cases: tuple[Case, ...]
    alternatives: tuple[Alternative, ...]
    columns: tuple[str, ...]
    plotted: str
    verdict: Callable[[Results], str]
    logarithmic: bool = False


def run_study(
    study: Study,
    costs: Costs,
    *,
    seeds: Sequence[int] = (0,),
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Results:
    """Measure all alternatives of a study on all its cases, with each seed, by so many processes at once.

    Raises RunError.
    """
    inputs = [(case, one, seed) for case in study.cases for one in study.alternatives for seed in seeds]
    runs = [
        Run(case.workload, named(case.workload).values(case.parameters), one.configuration, seed)
        for case, one, seed in inputs
    ]
    progress(0, len(runs))
    found = {}
    for place, measured in results_of(runs, costs, jobs=jobs):
        found[place] = measured
        progress(len(found), len(runs))
    results = Results(study, seeds)
    for place, (case, one, _) in enumerate(inputs):
        results.add(case, one, found[place])
    return results


def verdict_of(results: Results) -> str:
    """Return the answer of a study, with what the audit and the known defects have to say of it."""
    sentences = [results.study.verdict(results)]
    sentences += [
        f"{one.label} must not be used: {one.unsafe}." for one in results.study.alternatives if one.unsafe
    ]
    if not results.clean:
        wrong = {alternative.label for _, alternative, measured in results if not measured.clean}
        sentences.append(
            f"The audit found violations with {', '.join(sorted(wrong))}: `shadowmmu check` says which."
        )
    return " ".join(sentences)
