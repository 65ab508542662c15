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
        text = "\n".join([table(read(self.directory)), "", *notes]) + "\n"
        with open(os.path.join(self.directory, SUMMARY), "w") as file:
            file.write(text)
        return text

    def give_away(self):
        """To the user who called sudo, who will want to add them to the tree or draw them."""
        if "SUDO_UID" in os.environ:
            for path in (self.directory, *(entry.path for entry in os.scandir(self.directory))):
                os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


def read(directory):
    path = os.path.join(directory, RUNS)
    if not os.path.exists(path):
        return []
    with open(path) as file:
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
    return median if least == most else f"{median} ({least}–{most})"


def cpu(records, role):
    """User and system time of a role per GB as one spread."""
    if None in (spread(records, f"{role}_user_s_per_gb"), spread(records, f"{role}_system_s_per_gb")):
        return None
    return spread([{"cpu": record[f"{role}_user_s_per_gb"] + record[f"{role}_system_s_per_gb"]} for record in records],
                  "cpu")


HEADINGS = ("seconds", "MB/s", "sender", "receiver", "machine", "RSS MB sender", "receiver", "sent again %")


def row(records):
    """The cells under HEADINGS."""
    return (
        ranged(spread(records, "seconds"), 3), ranged(spread(records, "mb_per_second"), 1),
        ranged(cpu(records, "sender"), 2), ranged(cpu(records, "receiver"), 2),
        ranged(spread(records, "machine_busy_s_per_gb"), 2),
        ranged(spread(records, "sender_peak_rss_bytes"), 1, 1e-6),
        ranged(spread(records, "receiver_peak_rss_bytes"), 1, 1e-6),
        ranged(spread(records, "retransmitted_share"), 3, 100))


def extra(scenario, records):
    """What only some scenarios have."""
    notes = []
    add = lambda text, field, digits, factor=1: notes.append(
        text.format(ranged(spread(records, field), digits, factor))) if spread(records, field) else None
    samples = [sample for record in records for sample in record.get("samples_seconds", ())]
    if samples:
        notes.append(f"p50 {percentile(samples, 0.5) * 1e3:.2f} ms, p99 {percentile(samples, 0.99) * 1e3:.2f} ms, "
                     f"{len(samples)} copies")
    add("p50 {} µs", "p50_seconds", 1, 1e6)
    add("p99 {} µs", "p99_seconds", 1, 1e6)
    add("{} sessions", "sessions", 0)
    add("RSS {} MB", "server_rss_bytes", 1, 1e-6)
    add("CPU {} s", "server_cpu_seconds", 3)
    if records[0].get("clients", 1) > 2:
        # Everything on the server's side, which has nothing else to do.
        side = "sender" if records[0]["direction"] == "pull" else "receiver"
        add("PSS of the server's processes {} MB", f"{side}_peak_pss_bytes", 1, 1e-6)
    add("{} of the wire while the rival ran", "contended_share", 3)
    add("Jain {}", "jain_fairness", 3)
    seconds = spread(records, "seconds")
    if seconds and not samples and records[0]["files"] > max(1, records[0].get("clients", 1)):
        notes.append(f"{records[0]['files'] / seconds[0]:.0f} files/s")
    known = SCENARIOS.get(scenario)
    if seconds and known and known.link_bytes_per_second:
        times = seconds[0] / (records[0]["bytes"] / known.link_bytes_per_second)
        notes.append(f"{100 / times:.1f} % of the link" if known.path else f"{times:.3f}x the wire's own time")
    return ", ".join(notes)


def good(records):
    return [record for record in records if "error" not in record]


def against_io_uring(found):
    """Of landro-poll: how fast it is, io_uring being 1."""
    ratio = {}
    for program in ("landro", "landro-poll"):
        records = good(found.get(program, ()))
        measured = spread(records, "seconds") or spread(records, "p50_seconds")
        if not measured or "server_rss_bytes" in records[0]:
            return ""
        ratio[program] = measured[0]
    return f"{ratio['landro'] / ratio['landro-poll']:.2f} of io_uring's speed"


def table(records):
    lines = ["median (min–max); CPU seconds per GB of sender, receiver, and of the whole machine"]
    width = max([len(record["program"]) for record in records], default=0)
    by_scenario = {}
    for (scenario, program), found in groups(records).items():
        by_scenario.setdefault(scenario, {})[program] = found
    for scenario, programs in by_scenario.items():
        any_record = next(iter(programs.values()))[0]
        lines += ["", f"{scenario}: {any_record['files']} files, {any_record['bytes']} bytes",
                  f"{'':{width}} runs " + " ".join(f"{heading:>22}" for heading in HEADINGS)]
        for program, found in programs.items():
            ran = good(found)
            failed = f"{len(found) - len(ran)} of {len(found)} runs failed: " \
                     f"{next(record['error'] for record in found if 'error' in record)}" if len(ran) < len(found) else ""
            cells = " ".join(f"{cell:>22}" for cell in row(ran)) if ran else ""
            notes = (extra(scenario, ran) if ran else "",
                     against_io_uring(programs) if program == "landro-poll" else "", failed)
            lines.append(f"{program:{width}} {len(ran):4} {cells}  {'; '.join(filter(None, notes))}".rstrip())
    return "\n".join(lines)
