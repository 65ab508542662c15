"""perf/run and perf/ab: scenarios, programs, and what a transfer costs."""
