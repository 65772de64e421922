"""Whether prediction-powered rates hold what they say, and what a judge saves: simulated judges.

`python -m benchmarks.judges`: coverage over 1,000 judges of varied bias, users with 1 to 10 answers
that depend on each other; labels for +-3 points with a judge of 0.8 agreement and without.
"""

import random
from statistics import fmean

from benchmarks.figures import figure
from evaluators.ppi import Labelled, Rate, Seen, alone, rate

JUDGES = 1000
RIGHT = (0.5, 0.7, 0.9, 0.95)


def world(
    source: random.Random, *, right: float, accuracy: tuple[float, float], units: int, chance: float
) -> tuple[dict[str, Seen], list[Labelled]]:
    """Users whose own rates spread around `right`; a judge by its accuracy on right and on wrong
    answers; a share of the answers labelled by chance."""
    spread = source.choice((0.05, 0.2, 0.4))
    seen, people = {}, []
    for number in range(units):
        own = source.betavariate(right * (1 / spread - 1), (1 - right) * (1 / spread - 1))
        answers, judged = source.randint(1, 10), 0.0
        for _ in range(answers):
            good = source.random() < own
            says = float(good == (source.random() < accuracy[0 if good else 1]))
            judged += says
            if source.random() < chance:
                people.append(Labelled(f"u{number}", says, float(good), chance))
        seen[f"u{number}"] = Seen(judged, answers)
    return seen, people


def coverage() -> None:
    """How often the interval holds the truth, and how wide it is beside that of labels alone."""
    source, found = random.Random(1), list[tuple[bool, Rate, Rate]]()
    while len(found) < JUDGES:
        right = source.choice(RIGHT)
        accuracy = source.uniform(0.5, 1), source.uniform(0.3, 1)
        units, chance = source.choice((60, 150, 400)), source.choice((0.05, 0.1, 0.3))
        seen, people = world(source, right=right, accuracy=accuracy, units=units, chance=chance)
        by_judge, by_labels = rate(seen, people), alone(people)
        if by_judge is not None and by_labels is not None:
            found.append((by_judge.lower <= right <= by_judge.upper, by_judge, by_labels))
    figure("ppi_coverage", fmean(inside for inside, _, _ in found), "share", judges=JUDGES)
    width = fmean(r.upper - r.lower for _, r, _ in found)
    figure("ppi_width", width, "share", alone=fmean(r.upper - r.lower for _, _, r in found))


def labels_for(half_width: float) -> None:
    """Labels for an interval that narrow, with a judge of 0.8 agreement and without; from the width
    at about a thousand labels, which goes with their root."""
    needed: dict[str, list[float]] = {"with_judge": [], "alone": []}
    for seed in range(20):
        seen, people = world(
            random.Random(seed), right=0.7, accuracy=(0.8, 0.8), units=4000, chance=0.045
        )
        for name, found in (("with_judge", rate(seen, people)), ("alone", alone(people))):
            assert found is not None
            width = (found.upper - found.lower) / 2
            needed[name].append(found.labels * (width / half_width) ** 2)
    for name, numbers in needed.items():
        figure(f"labels_for_{100 * half_width:g}_points_{name}", fmean(numbers), "labels")


if __name__ == "__main__":
    coverage()
    labels_for(0.03)
