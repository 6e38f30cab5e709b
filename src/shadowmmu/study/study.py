"""What a study is: a question, alternatives measured on the same inputs, and the sentence it ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .configuration import Configuration
from .costs import Costs
from .measure import Measurement, measure

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


class Results:
    """Measurements of a study, by case and alternative; one for each seed."""

    def __init__(self, study: Study, seeds: Sequence[int]) -> None:
        self.study = study
        self.seeds = tuple(seeds)
        self._found: dict[tuple[str, str], list[Measurement]] = {}

    def add(self, case: Case, alternative: Alternative, measured: Measurement) -> None:
        """Take a measurement."""
        self._found.setdefault((case.label, alternative.label), []).append(measured)

    def of(self, case: str, alternative: str) -> list[Measurement]:
        """Return the measurements of an alternative on a case, by their labels. Raises KeyError."""
        return self._found[case, alternative]

    def value(self, case: str, alternative: str, counter: str) -> float:
        """Return the mean of a counter over the seeds. Raises KeyError."""
        values = [one[counter] for one in self.of(case, alternative)]
        return sum(values) / len(values)

    def __iter__(self) -> Iterator[tuple[Case, Alternative, Measurement]]:
        for case in self.study.cases:
            for alternative in self.study.alternatives:
                for measured in self._found.get((case.label, alternative.label), ()):
                    yield case, alternative, measured

    @property
    def clean(self) -> bool:
        """Return whether the audit found nothing in any measurement that it looked at."""
        return all(measured.clean is not False for _, _, measured in self)


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
        audited: The audit looks at each measurement; it is too slow for very large guests.
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
    audited: bool = True


def run_study(
    study: Study,
    costs: Costs,
    *,
    seeds: Sequence[int] = (0,),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Results:
    """Measure all alternatives of a study on all its cases, with each seed."""
    results = Results(study, seeds)
    total = len(study.cases) * len(study.alternatives) * len(seeds)
    done = 0
    for case in study.cases:
        for alternative in study.alternatives:
            for seed in seeds:
                progress(done, total)
                measured = measure(
                    case.workload,
                    alternative.configuration,
                    costs,
                    parameters=case.parameters,
                    seed=seed,
                    audited=study.audited,
                )
                results.add(case, alternative, measured)
                done += 1
    progress(total, total)
    return results


def verdict_of(results: Results) -> str:
    """Return the answer of a study, with what the audit and the known defects have to say of it."""
    sentences = [results.study.verdict(results)]
    sentences += [
        f"{one.label} must not be used: {one.unsafe}." for one in results.study.alternatives if one.unsafe
    ]
    if not results.clean:
        wrong = {alternative.label for _, alternative, measured in results if measured.clean is False}
        sentences.append(
            f"The audit found violations with {', '.join(sorted(wrong))}: `shadowmmu check` says which."
        )
    return " ".join(sentences)
