"""The supervisor: what dies comes back after growing pauses, what stops stops in order, nothing outlives it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lwd.fleet import supervisor
from lwd.fleet.supervisor import Managed, Supervisor

STEADY = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)));"
NOTES = "open({order!r}, 'a').write({name!r} + ' ')"


def python(code):
    return [sys.executable, "-c", code]


def until(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.05, 0.2))
    monkeypatch.setattr(supervisor, "STOP_S", 3.0)


@pytest.fixture
def supervise(tmp_path, quick):
    """Runs a supervisor in a thread; ends it whatever happens."""
    stops = []

    def begin(*managed):
        found, stop = Supervisor(managed, tmp_path / "logs"), threading.Event()
        thread = threading.Thread(target=found.run, args=(stop, 0.01))
        thread.start()
        stops.append((stop, thread))
        return found, lambda: (stop.set(), thread.join(20.0))

    yield begin
    for stop, thread in stops:
        stop.set()
        thread.join(20.0)
        assert not thread.is_alive()


def test_what_is_killed_comes_back_and_the_others_go_on(supervise, caplog):
    code = "import time\ntime.sleep(600)"
    fleet, stop = supervise(Managed(name="a", command=python(code)), Managed(name="b", command=python(code)))
    until(lambda: len(fleet.pids) == 2)
    first, other = fleet.pids["a"], fleet.pids["b"]
    os.kill(first, signal.SIGKILL)
    until(lambda: fleet.pids.get("a", first) != first)
    assert fleet.pids["b"] == other
    assert fleet.restarts == 1
    second = fleet.pids["a"]
    stop()
    assert all(gone(pid) for pid in (first, second, other))
    assert f"process_ended name=a pid={first} code=-9" in caplog.text


def test_pauses_grow_up_to_the_longest_and_its_last_words_are_logged(supervise, caplog):
    fleet, stop = supervise(Managed(name="broken", command=python("raise SystemExit('no such camera')")))
    until(lambda: caplog.text.count("process_ended") >= 4)
    stop()
    pauses = [float(text.split()[0]) for text in caplog.text.split("restarts_in_s=")[1:]]
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.2]
    assert "no such camera" in caplog.text
    assert fleet.pids == {}


def test_a_program_that_does_not_exist_is_tried_again_and_does_not_stop_the_rest(supervise, caplog):
    sleeper = Managed(name="other", command=python("import time\ntime.sleep(600)"))
    fleet, stop = supervise(Managed(name="lost", command=["/no/such/program"]), sleeper)
    until(lambda: caplog.text.count("process_not_started name=lost") >= 2 and "other" in fleet.pids)
    stop()


def test_robots_stop_before_the_coordinator_and_the_broker_last(supervise, tmp_path):
    order = str(tmp_path / "order")
    managed = [
        Managed(
            name=name,
            command=python(
                "import signal, sys, time\n"
                f"def end(*_):\n    time.sleep({pause}); {NOTES.format(order=order, name=name)}; sys.exit(0)\n"
                "signal.signal(signal.SIGTERM, end)\nprint('ready', flush=True)\ntime.sleep(600)"
            ),
            stage=stage,
        )
        for name, stage, pause in [
            ("broker", 0, 0),
            ("coordinator", 1, 0),
            ("learner", 2, 0),
            ("robot", 3, 0.3),
        ]
    ]
    fleet, stop = supervise(*managed)
    ready = lambda: all("ready" in log.read_text() for log in (tmp_path / "logs").glob("*.log"))  # noqa: E731
    until(lambda: len(fleet.pids) == 4 and len(list((tmp_path / "logs").glob("*.log"))) == 4 and ready())
    stop()
    assert (tmp_path / "order").read_text().split() == ["robot", "learner", "coordinator", "broker"]


def test_who_does_not_stop_is_killed(supervise, caplog):
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    fleet, stop = supervise(Managed(name="deaf", command=python(code)))
    until(lambda: "deaf" in fleet.pids)
    pid = fleet.pids["deaf"]
    until(lambda: _ignores_term(pid))
    stop()
    assert gone(pid)
    assert "process_killed name=deaf" in caplog.text


def test_a_supervised_child_stops_when_its_supervisor_was_killed(tmp_path):
    child = (
        "import threading, time\nfrom lwd.fleet.supervisor import stop_with_parent\n"
        "stop = threading.Event(); stop_with_parent(stop, 0.02); print('up', flush=True)\n"
        f"stop.wait(60) and open({str(tmp_path / 'ended')!r}, 'w').write('yes')"
    )
    parent = (
        "import sys, threading\nfrom pathlib import Path\nfrom lwd.fleet.supervisor import Managed, Supervisor\n"
        f"Supervisor([Managed(name='child', command=[sys.executable, '-c', {child!r}])], Path({str(tmp_path)!r}))"
        ".run(threading.Event())"
    )
    with subprocess.Popen(python(parent)) as process:
        log = tmp_path / "child.log"
        until(lambda: log.exists() and "up" in log.read_text())
        process.kill()
    until((tmp_path / "ended").exists)


def test_a_log_that_has_grown_is_put_aside_when_its_process_starts_again(tmp_path, supervise, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_BYTES", 20)
    log, old = (tmp_path / "logs" / name for name in ("a.log", "a.log.1"))
    log.parent.mkdir()
    log.write_text("from before: 20 and a few")
    supervise(Managed(name="a", command=python("import time\nprint('up', flush=True)\ntime.sleep(600)")))
    until(lambda: log.exists() and log.read_text() == "up\n")
    assert old.read_text() == "from before: 20 and a few"


def test_a_child_whose_supervisor_was_killed_while_it_started_stops_too(tmp_path):
    """To it, its parent has always been init: what it is to look for is the pid that it was told."""
    child = (
        "import os, sys, threading, time\nfrom lwd.fleet.supervisor import SUPERVISED, stop_with_parent\n"
        f"while os.path.exists('/proc/' + open({str(tmp_path / 'pid')!r}).read()):\n    time.sleep(0.01)\n"
        "stop = threading.Event(); stop_with_parent(stop, 0.02)\n"
        "inherited = os.environ.get(SUPERVISED)\n"
        f"stop.wait(30) and open({str(tmp_path / 'ended')!r}, 'w').write(str(inherited))"
    )
    parent = (
        "import os, sys\nfrom pathlib import Path\nfrom lwd.fleet.supervisor import Managed, Supervisor\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        f"Supervisor([Managed(name='child', command=[sys.executable, '-c', {child!r}])], Path({str(tmp_path)!r})).poll()\n"
        "os._exit(9)"
    )
    assert subprocess.run(python(parent), timeout=60, check=False).returncode == 9
    until(lambda: (tmp_path / "ended").exists() and (tmp_path / "ended").read_text())
    assert (tmp_path / "ended").read_text() == "None", "what it starts itself has another parent"


def _ignores_term(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1
