"""Records kept as JSON lines, and the medians of them as a table."""
import json
import os
import statistics
import time

from .hosts import ROOT
from .scenarios import SCENARIOS

RUNS, SETUP, SUMMARY = "runs.jsonl", "setup.json", "summary.txt"


class Results:
    """One directory: the set-up, a line per run, the table of medians. Later runs with the same set-up are added."""

    def __init__(self, directory, setup):
        self.directory = directory or os.path.join(
            ROOT, "perf", "results", f"{time.strftime('%Y-%m-%d')}-{os.uname().nodename}")
        os.makedirs(self.directory, exist_ok=True)
        self.setup_path = os.path.join(self.directory, SETUP)
        self.setup = {**setup, "versions": {}, "wires": {}}
        if os.path.exists(self.setup_path):
            with open(self.setup_path) as file:
                kept = json.load(file)
            different = [key for key in setup if kept[key] != setup[key]]
            if different:
                raise SystemExit(f"perf/run: {self.directory} has runs with another {', '.join(different)}; "
                                 "choose another directory with --out")
            self.setup = kept
        self.write_setup()

    def write_setup(self):
        with open(self.setup_path, "w") as file:
            json.dump(self.setup, file, indent=1)
            file.write("\n")

    def add_versions(self, versions):
        self.setup["versions"].update(versions)
        self.write_setup()

    def add_wire(self, wire, description):
        self.setup["wires"][" ".join(wire)] = description
        self.write_setup()

    def add_run(self, record):
        with open(os.path.join(self.directory, RUNS), "a") as file:
            file.write(json.dumps(record) + "\n")

    def write_summary(self, notes):
        text = "\n".join([table(read(self.directory)), *notes]) + "\n"
        with open(os.path.join(self.directory, SUMMARY), "w") as file:
            file.write(text)
        return text


def read(directory):
    with open(os.path.join(directory, RUNS)) as file:
        return [json.loads(line) for line in file]


def groups(records):
    """{(scenario, program): its records}: scenarios in the order of their first appearance, programs by name."""
    first = list(dict.fromkeys(record["scenario"] for record in records))
    found = {}
    for record in sorted(records, key=lambda record: (first.index(record["scenario"]), record["program"])):
        found.setdefault((record["scenario"], record["program"]), []).append(record)
    return found


def spread(records, field):
    """(median, least, most) of a field, or None where a record lacks it."""
    values = [record.get(field) for record in records]
    if not values or None in values:
        return None
    return statistics.median(values), min(values), max(values)


def percentile(values, share):
    """The smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ranged(found, digits, factor=1):
    if found is None:
        return "-"
    median, least, most = (f"{value * factor:.{digits}f}" for value in found)
    return f"{median} ({least}–{most})"


def plus(records, role):
    """User and system time of a role as one field."""
    return spread([{"cpu": record[f"{role}_user_s_per_gb"] + record[f"{role}_system_s_per_gb"]} for record in records],
                  "cpu")


HEADINGS = ("seconds", "MB/s", "sender", "receiver", "machine", "RSS MB sender", "receiver", "sent again %")


def row(records):
    """The cells under HEADINGS."""
    return (
        ranged(spread(records, "seconds"), 3), ranged(spread(records, "mb_per_second"), 1),
        ranged(plus(records, "sender"), 2), ranged(plus(records, "receiver"), 2),
        ranged(spread(records, "machine_busy_s_per_gb"), 2),
        ranged(spread(records, "sender_peak_rss_bytes"), 1, 1e-6),
        ranged(spread(records, "receiver_peak_rss_bytes"), 1, 1e-6),
        ranged(spread(records, "retransmitted_share"), 3, 100))


def extra(scenario, records):
    """What only some scenarios have."""
    seconds, notes = statistics.median(record["seconds"] for record in records), []
    samples = [sample for record in records for sample in record.get("samples_seconds", ())]
    if samples:
        notes.append(f"p50 {percentile(samples, 0.5) * 1e3:.2f} ms, p99 {percentile(samples, 0.99) * 1e3:.2f} ms, "
                     f"{len(samples)} copies")
    elif records[0]["files"] > 1:
        notes.append(f"{records[0]['files'] / seconds:.0f} files/s")
    known = SCENARIOS.get(scenario)
    if known and known.wire_bytes_per_second and not samples:
        notes.append(f"{seconds / (records[0]['bytes'] / known.wire_bytes_per_second):.3f}x the wire's own time")
    return ", ".join(notes)


def table(records):
    lines = ["median (min–max); CPU seconds per GB of sender, receiver, and of the whole machine"]
    width = max([len(record["program"]) for record in records], default=0)
    last = None
    for (scenario, program), found in groups(records).items():
        if scenario != last:
            lines += ["", f"{scenario}: {found[0]['files']} files, {found[0]['bytes']} bytes",
                      f"{'':{width}} runs " + " ".join(f"{heading:>22}" for heading in HEADINGS)]
            last = scenario
        good = [record for record in found if "error" not in record]
        failed = f"{len(found) - len(good)} of {len(found)} runs failed: {next(r['error'] for r in found if 'error' in r)}" \
            if len(good) < len(found) else ""
        cells = " ".join(f"{cell:>22}" for cell in row(good)) if good else ""
        tail = "; ".join(filter(None, (extra(scenario, good) if good else "", failed)))
        lines.append(f"{program:{width}} {len(good):4} {cells}  {tail}".rstrip())
    return "\n".join(lines)
