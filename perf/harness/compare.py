"""Two programs by their records, round by round: ratios with their spread, and whether there is a difference at all."""
import random
import statistics
from dataclasses import dataclass

RESAMPLES = 10_000
CONFIDENCE = 0.95


def cpu(role):
    return lambda record: record[f"{role}_user_s_per_gb"] + record[f"{role}_system_s_per_gb"]


# What is compared, in all of which less is better: name, value of a record, factor and digits of its print.
FIGURES = (
    ("seconds", lambda record: record["seconds"], 1, 4),
    ("sender CPU s/GB", cpu("sender"), 1, 3),
    ("receiver CPU s/GB", cpu("receiver"), 1, 3),
    ("both CPU s/GB", lambda record: cpu("sender")(record) + cpu("receiver")(record), 1, 3),
    ("machine busy s/GB", lambda record: record["machine_busy_s_per_gb"], 1, 3),
    ("sender RSS MB", lambda record: record["sender_peak_rss_bytes"], 1e-6, 1),
    ("receiver RSS MB", lambda record: record["receiver_peak_rss_bytes"], 1e-6, 1),
)


@dataclass(frozen=True)
class Comparison:
    """B over A in one figure."""
    median_a: float
    median_b: float
    # Of the rounds, each of which ran A and B next to each other.
    round_median: float
    round_least: float
    round_most: float
    # Where the ratio of the medians lies, by bootstrap over the rounds.
    low: float
    high: float

    @property
    def ratio(self):
        return self.median_b / self.median_a

    @property
    def verdict(self):
        if self.low <= 1 <= self.high:
            return "no difference seen"
        return f"B {abs(self.ratio - 1) * 100:.1f} % {'less' if self.high < 1 else 'more'}"


def compare(pairs, seed):
    """Of pairs (a, b) of one figure, a pair per round; None if a value is missing (zero)."""
    if not all(a > 0 and b > 0 for a, b in pairs):
        return None
    ratios = [b / a for a, b in pairs]
    low, high = interval(pairs, random.Random(seed))
    return Comparison(statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
                      statistics.median(ratios), min(ratios), max(ratios), low, high)


def interval(pairs, generator):
    # Whole rounds are drawn: what slowed a round down slowed both.
    found = []
    for _ in range(RESAMPLES):
        drawn = generator.choices(pairs, k=len(pairs))
        found.append(statistics.median(b for _, b in drawn) / statistics.median(a for a, _ in drawn))
    found.sort()
    tail = (1 - CONFIDENCE) / 2
    return found[int(tail * RESAMPLES)], found[int((1 - tail) * RESAMPLES) - 1]


HEADING = (f"{'':18} {'A':>9} {'B':>9} {'B/A':>7}  {f'{CONFIDENCE:.0%} interval':>15}  "
           f"{'rounds: median (min–max)':>25}")


def table(rounds, seed, figures=FIGURES):
    """rounds: (record of A, record of B) each."""
    lines = [HEADING]
    for name, value, factor, digits in figures:
        found = compare([(value(a), value(b)) for a, b in rounds], seed)
        if found is None:
            lines.append(f"{name:18} too small to be measured")
            continue
        lines.append(
            f"{name:18} {found.median_a * factor:9.{digits}f} {found.median_b * factor:9.{digits}f} {found.ratio:7.3f}  "
            f"{f'{found.low:.3f}–{found.high:.3f}':>15}  "
            f"{f'{found.round_median:.3f} ({found.round_least:.3f}–{found.round_most:.3f})':>25}  {found.verdict}")
    return "\n".join(lines)
