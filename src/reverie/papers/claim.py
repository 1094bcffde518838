"""A claim: a paper's headline, put so that it can fail, and the run that decides it.

A claim measures several arms in the same run, on the same seeds: the method, the baseline, what stands in the method's place in the null control,
and whatever else is of interest. Its cases say what must be true of these figures; all of them must hold. Three kinds:

    superiority   the method's figure is better by a factor or a gain                    null: the baseline in the method's place
    saving        it costs less by a factor, and its figure keeps what the cost buys     null: the cheap baseline, at the method's cost
    identity      a deviation stays below a bound                                        null: a mutation of the formula

The null control goes through the same predicate as the method and must fail, in every setting: a predicate that its null passes says nothing. Where
a figure has a floor (a distance between finite samples), a positive control goes through it too, and must not fail: a predicate that perfect
samples do not pass says as little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from reverie.base import ArgumentError, unknown

__all__ = ["BUDGETS", "KINDS", "Budget", "Case", "Claim", "Figures", "Measure"]

T = TypeVar("T")
KINDS = ("superiority", "saving", "identity")


@dataclass(frozen=True)
class Budget:
    """How much is spent. "tiny": the test of the null control, under a second. "quick": about a minute on 2 cores, never over three. "full": may
    need a GPU.

    Attributes:
        name: of the budget. seeds: how many, unless the claim says otherwise.
    """

    name: str
    seeds: int

    def __post_init__(self) -> None:
        if self.name not in ("tiny", "quick", "full"):
            raise unknown("budget", self.name, ("tiny", "quick", "full"))

    def pick(self, tiny: T, quick: T, full: T) -> T:
        """One of three values, by the budget's name.

        >>> BUDGETS["quick"].pick(8, 128, 4096)
        128
        """
        return {"tiny": tiny, "quick": quick, "full": full}[self.name]


BUDGETS: Mapping[str, Budget] = MappingProxyType(
    {b.name: b for b in (Budget("tiny", 2), Budget("quick", 5), Budget("full", 20))}
)

Figures = Mapping[str, Mapping[str, float]]
"""What one seed gave: figure -> arm -> value."""
Measure = Callable[[Mapping[str, Any], int, Budget], Figures]


@dataclass(frozen=True)
class Case:
    """What must be true of one figure, in the mean over seeds. Exactly one of the five bounds is given.

    Attributes:
        figure: its name; a number after a slash is its place on the plot's axis, what stands before it the setting: "digits/8".
        factor: the other arm's value over this one's (this one's over the other's, where higher is better) is at least this; 1: it is better at all.
        signed: for a factor of figures that may be 0 or negative (an unbiased distance): compare other - factor own with 0 instead of their ratio.
        gain: likewise the difference of the two values; below 0 it is a margin.
        share: of the gap between the null control and the other arm, the share that this arm closes at least: 0.8 keeps four fifths of what
            the other arm's cost buys.
        at_most, at_least: a bound on this arm's own value.
        better: "lower" or "higher". arm, against: the two arms. cost: a figure of cost, which the null control may pass.
    """

    figure: str
    factor: float | None = None
    gain: float | None = None
    share: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    better: Literal["lower", "higher"] = "lower"
    arm: str = "method"
    against: str = "baseline"
    signed: bool = False
    cost: bool = False

    def __post_init__(self) -> None:
        given = [k for k in ("factor", "gain", "share", "at_most", "at_least") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ArgumentError(
                f"a case has one bound of factor, gain, share, at_most, at_least; {self.figure!r} has {', '.join(given) or 'none'}"
            )
        if self.factor is not None and not self.factor > 0:
            raise ArgumentError(f"a factor is positive; that of {self.figure!r} is {self.factor:g}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ArgumentError(f"a share is in (0, 1]; that of {self.figure!r} is {self.share:g}")
        if self.better not in ("lower", "higher"):
            raise unknown("direction", self.better, ("lower", "higher"))

    @property
    def paired(self) -> bool:
        """Whether two arms are compared."""
        return self.at_most is None and self.at_least is None

    @property
    def setting(self) -> str:
        """Where it is measured: the figure's name without its place on the axis."""
        return place(self.figure)[0]

    @property
    def arms(self) -> set[str]:
        """The arms whose values it needs."""
        needed = {self.arm, self.against} if self.paired else {self.arm}
        return needed | ({"null"} if self.arm == "method" or self.share is not None else set())


def place(figure: str) -> tuple[str, float | None]:
    """A figure's setting, and its place on the axis or None.

    >>> place("digits/8"), place("cost")
    (('digits', 8.0), ('cost', None))
    """
    setting, _, at = figure.rpartition("/")
    try:
        return setting, float(at)
    except ValueError:
        return figure, None


@dataclass(frozen=True)
class Claim:
    """One paper's claim.

    Attributes:
        slug: of the paper. kind: "superiority", "saving" or "identity". statement: one sentence that can be false.
        arms: what is measured, by name: "method", and "baseline" unless no case is paired; whatever `run` understands.
        ideal: what takes its place in the positive control, where a figure has a floor that not even perfect samples go below.
        null: what takes the method's place in the null control. By default, for superiority, the baseline.
        run: `(arms, seed, budget) -> {figure: {arm: value}}`; it measures every arm it is given, at one seed.
        cases: what must be true of the figures. cases of another budget than quick may be fewer: a figure that a budget does not measure is left
            out at "tiny" only.
        axis: what the numbers after the slash count. units: what the figures are, by what stands before the slash. names: of the arms, for people.
        use: three lines that use the method, as in `reverie papers show`; a test runs them.
        seeds: budget's name -> number of seeds, where it differs.
    """

    slug: str
    kind: Literal["superiority", "saving", "identity"]
    statement: str
    arms: Mapping[str, Any]
    run: Measure
    cases: tuple[Case, ...]
    null: Any = None
    ideal: Any = None
    axis: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    use: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of claim", self.kind, KINDS)
        if "method" not in self.arms or {"null", "ideal"} & set(self.arms):
            raise ArgumentError(
                f"the arms of {self.slug!r} need 'method' and leave 'null' and 'ideal' to the controls, got {', '.join(self.arms)}"
            )
        if self.null is None and (self.kind != "superiority" or "baseline" not in self.arms):
            raise ArgumentError(f"the claim of {self.slug!r} has no null control: give null=")
        if not self.cases:
            raise ArgumentError(f"the claim of {self.slug!r} has no case: nothing could make it fail")
        for case in self.cases:
            for arm in case.arms - {"null"}:
                if arm not in self.arms:
                    raise unknown(f"arm of {case.figure!r}", arm, self.arms)
        if not any(case.arm == "method" and not case.cost for case in self.cases):
            raise ArgumentError(f"no case of {self.slug!r} is about the method")

    @property
    def everything(self) -> dict[str, Any]:
        """All arms, the controls among them."""
        null = self.arms["baseline"] if self.null is None else self.null
        return {**self.arms, "null": null} | ({} if self.ideal is None else {"ideal": self.ideal})

    def seeds_of(self, budget: Budget) -> int:
        """How many seeds a budget has here."""
        return self.seeds.get(budget.name, budget.seeds)
