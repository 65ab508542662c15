"""One end of the wire: runs commands inside a network namespace, times them, and answers in JSON over its pipes.

It is started once per namespace, so that no `ip netns exec` is inside anybody's clock. One request per line on stdin,
one answer per line on stdout; the end of stdin ends everything it started.
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

OUTPUT_LIMIT_BYTES = 1 << 20
STOP_SECONDS = 10
servers = {}


class Failed(Exception):
    pass


def spawn(command, output):
    # A session of its own: nobody finds a terminal to ask for passwords on, and all of it can be ended at once.
    return subprocess.Popen(
        command["argv"], env=dict(os.environ, **command.get("env", {})), cwd=command.get("cwd"),
        stdin=subprocess.DEVNULL, stdout=output[0], stderr=output[1], start_new_session=True)


def outputs():
    return tempfile.TemporaryFile(dir="/dev/shm"), tempfile.TemporaryFile(dir="/dev/shm")


def tail(file):
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OUTPUT_LIMIT_BYTES))
    return file.read().decode(errors="replace")


def kill(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(request):
    """Runs all commands at once; the clock runs from the first start to the last end."""
    waiting, answer = {}, []

    def give_up(*_):
        for process, *_ in waiting.values():
            kill(process)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(request["timeout_seconds"])
    started = time.monotonic()
    for index, command in enumerate(request["commands"]):
        output = outputs()
        waiting[index] = (spawn(command, output), output, time.monotonic())
    pids = {process.pid: index for index, (process, _, _) in waiting.items()}
    ended = {}
    while len(ended) < len(waiting):
        pid, status, usage = os.wait4(-1, 0)
        if pid in pids:
            ended[pids[pid]] = (time.monotonic(), os.waitstatus_to_exitcode(status), usage)
        elif pid in servers:
            servers[pid][0].returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    timed_out = signal.alarm(0) == 0
    for index, (process, output, begun) in waiting.items():
        end, status, usage = ended[index]
        process.returncode = status
        # A child's ru_maxrss starts at its parent's peak, so below that it says nothing.
        known = usage.ru_maxrss > own_peak_kib()
        answer.append({"status": status, "seconds": end - begun, "stdout": tail(output[0]), "stderr": tail(output[1]),
                       "peak_rss_bytes": usage.ru_maxrss * 1024 if known else None})
    return {"seconds": seconds, "timed_out": timed_out, "commands": answer}


def own_peak_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def start(request):
    """Starts a server and waits until it prints a line like `ready_line` or takes connections on `ready_port`."""
    output = outputs()
    process = spawn(request, output)
    servers[process.pid] = (process, output)
    deadline = time.monotonic() + request["timeout_seconds"]
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        found = re.search(request["ready_line"], tail(output[0]), re.M) if "ready_line" in request else None
        if found:
            return {"pid": process.pid, "line": found.group(0)}
        if "ready_port" in request and listens(request["ready_port"]):
            return {"pid": process.pid, "line": None}
        time.sleep(0.005)
    said = (tail(output[1]) or tail(output[0])).strip()[-2000:]
    stop({"pid": process.pid})
    raise Failed(f"{request['argv'][0]} was not ready after {request['timeout_seconds']} s "
                 f"(exit status {process.returncode}): {said}")


def listens(address):
    try:
        socket.create_connection(address, timeout=1).close()
        return True
    except OSError:
        return False


def stop(request):
    process, output = servers.pop(request["pid"])
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    kill(process)
    process.wait()
    return {"status": process.returncode, "stdout": tail(output[0]), "stderr": tail(output[1])}


def tcp(_):
    """Segments sent by TCP in this namespace so far, and how many of them again."""
    with open("/proc/net/snmp") as snmp:
        names, values = [line.split()[1:] for line in snmp if line.startswith("Tcp:")]
    counters = dict(zip(names, map(int, values)))
    return {"sent": counters["OutSegs"], "retransmitted": counters["RetransSegs"]}


def main():
    operations = {"run": run, "start": start, "stop": stop, "tcp": tcp}
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = operations[request["op"]](request)
            except (Failed, OSError) as error:
                answer = {"failed": str(error)}
            print(json.dumps(answer), flush=True)
    finally:
        for process, _ in servers.values():
            kill(process)


if __name__ == "__main__":
    main()
