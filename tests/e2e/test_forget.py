"""``edge-store forget``: of who is forgotten nothing is left on the box, and nothing at the centre
after the next pull; of everybody else everything is there.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.batches import ended, line, output_of, pause, submit, text_of
from support.daemon import EDGE_STORE, Box, DaemonProcess, chat_until_replicated, until

CHAT, LATER = "/v1/chat/completions", {"prefer": "respond-async"}
ADA, BOB = "ada-u17", "bob-u18"
SECRET, KEPT = "sphinx-of-quartz", "quick-brown-fox"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box.init(tmp_path / "box")


def forget(box: Box, *arguments: str) -> Any:
    done = box.run("forget", *arguments, "--config", str(box.directory))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def body(user: str, text: str, **more: Any) -> dict[str, Any]:
    words = [{"role": "user", "content": text}]
    return {"model": "demo", "messages": words, "user": user, **more}


def ask(daemon: DaemonProcess, path: str, json_: Any, **headers: str) -> Any:
    answer = daemon.post(path, json=json_, headers=headers)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def chat(daemon: DaemonProcess, user: str, text: str, **headers: str) -> str:
    return str(ask(daemon, CHAT, body(user, text), **headers)["id"])


def lines_of(user: str, text: str, names: str) -> list[dict[str, Any]]:
    return [line(f"{user}-{name}", body=body(user, f"{text} {name}")) for name in names]


def do_all(daemon: DaemonProcess, box: Box, user: str, text: str) -> dict[str, Any]:
    """Everything that leaves a trace."""
    chat(daemon, user, text, **{"idempotency-key": f"key-{user}"})
    ask(daemon, "/v1/messages", {
        "model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": text}],
        "metadata": {"user_id": user},
    })  # fmt: skip
    stream = daemon.post(CHAT, json=body(user, text, stream=True))
    assert stream.status_code == 200
    updated = chat(daemon, user, text)
    ask(daemon, f"{CHAT}/{updated}", {"metadata": {"said": text}})
    talk = ask(daemon, "/v1/conversations", {
        "items": [{"role": "user", "content": f"added {text}"}], "metadata": {"of": text},
    })  # fmt: skip
    said = {"model": "demo", "input": text, "user": user, "conversation": talk["id"]}
    ask(daemon, "/v1/responses", said)
    first = ask(daemon, "/v1/responses", {"model": "demo", "input": text, "user": user})
    behind = {"model": "demo", "input": text, "user": user, "background": True}
    response = ask(daemon, "/v1/responses", behind)["id"]
    until(
        lambda: daemon.get(f"/v1/responses/{response}").json()["status"] == "completed",
        "the response has ended",
    )
    later = ask(daemon, CHAT, body(user, text), **LATER)["id"]
    until(lambda: daemon.get(f"/v1/results/{later}").status_code == 200, "it is answered")
    return {"response": first["id"], "conversation": talk["id"]}


def test_of_a_forgotten_user_nothing_is_left(box: Box) -> None:
    with box.serve() as daemon:
        ada = do_all(daemon, box, ADA, SECRET)
        do_all(daemon, box, BOB, KEPT)
        # another user goes on with what was said: the request that the engine gets holds all of it
        go_on = {"model": "demo", "input": "go on", "user": "eve"}
        ask(daemon, "/v1/responses", {**go_on, "previous_response_id": ada["response"]})
        ask(daemon, "/v1/responses", {**go_on, "conversation": ada["conversation"]})
        both = lines_of(ADA, SECRET, "abc") + lines_of(BOB, KEPT, "abc")
        batch = ended(daemon, submit(daemon, text_of(both)))
        pause(daemon)
        waiting = submit(daemon, text_of(lines_of(BOB, KEPT, "xy") + lines_of(ADA, SECRET, "xy")))
        until(
            lambda: daemon.get(f"/v1/batches/{waiting}").json()["status"] == "in_progress",
            "its input is checked",
        )
        ask(daemon, CHAT, body(ADA, SECRET), **LATER)
        ask(daemon, CHAT, body(BOB, KEPT), **LATER)

        counts = {
            "results": 13, "archived": 0, "following": 2, "pinned": 0, "held": 0, "requests": 1,
            "responses": 0, "conversations": 1, "lines": 8,
        }  # fmt: skip
        assert forget(box, "--user", ADA, "--dry-run") == {**counts, "dry_run": True}
        assert box.everything().count(SECRET.encode()) > 20
        done = forget(box, "--user", ADA, "--yes")
        assert done == {**counts, "dry_run": False, "remains": done["remains"]}
        until(lambda: SECRET.encode() not in box.everything(), "the WAL is emptied")
        assert ADA.encode() not in box.everything()
        again = forget(box, "--user", ADA, "--yes")
        assert again.pop("remains") == done["remains"]
        assert again.pop("last_forgotten_at").startswith("20")
        assert again == {**dict.fromkeys(counts, 0), "dry_run": False}

        assert [one["custom_id"] for one in output_of(daemon, batch["output_file_id"])] == [
            "", "", "", f"{BOB}-a", f"{BOB}-b", f"{BOB}-c",
        ]  # fmt: skip
        assert box.run("queue", "resume", "--config", str(box.directory)).returncode == 0
        ended_ = ended(daemon, waiting)
        assert [one["custom_id"] for one in output_of(daemon, ended_["output_file_id"])] == [
            f"{BOB}-x", f"{BOB}-y",
        ]  # fmt: skip
        assert ended_["request_counts"] == {"total": 4, "completed": 2, "failed": 0}
        answer = daemon.post(CHAT, json=body(ADA, "a new day"), headers={
            "idempotency-key": f"key-{ADA}",
        })  # fmt: skip
        assert "idempotency-replayed" not in answer.headers
        until(lambda: box.scalar("SELECT count(*) FROM queued_requests") == 0, "Bob's is answered")
        assert daemon.stop() == 0
    assert box.rows("SELECT user_id, count(*) FROM results GROUP BY 1 ORDER BY 1") == [
        (ADA, 1), (BOB, 8 + 3 + 2 + 1),
    ]  # fmt: skip
    assert box.rows("SELECT what, reason, count(*) FROM deletions GROUP BY 1, 2") == [
        ("result", "forget", 13)
    ]
    assert box.rows("SELECT what, count(*) FROM forgotten GROUP BY 1 ORDER BY 1") == [
        ("conversation", 1), ("lines", 3), ("request", 1),
    ]  # fmt: skip
    (sums,) = box.rows("SELECT admitted, completed, deleted_forget, percent FROM completeness")
    assert sums == (28, 15, 13, 100.0)
    assert box.proven().faults == ()
    assert box.run("ledger", "--config", str(box.directory)).returncode == 0
    assert box.run("verify", "--config", str(box.directory)).returncode == 0


def test_a_second_run_says_what_remains_of_one_that_was_cut(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    config = ("--config", str(box.directory))
    with box.serve() as daemon:
        chat(daemon, ADA, SECRET)
        assert "remains" not in forget(box, "--user", BOB, "--yes")  # none was ever forgotten
        with Path("/dev/full").open("w") as full:  # it is deleted, and that is not told
            cut = subprocess.run(
                [*EDGE_STORE, "forget", "--user", ADA, "--yes", *config],
                env=box.environ, stdout=full, stderr=subprocess.DEVNULL, timeout=60, check=False,
            )  # fmt: skip
        assert cut.returncode == 1
        assert box.scalar("SELECT count(*) FROM deletions WHERE reason = 'forget'") == 1
        assert "remains" not in forget(box, "--user", ADA, "--dry-run")
        said = forget(box, "--user", ADA, "--yes")
        assert (said["results"], said["last_forgotten_at"] >= "20") == (0, True)
        assert {"database", "wal", "search", "replica", "copies"} <= {*said["remains"]}
        chat(daemon, ADA, SECRET)
        whole = forget(box, "--user", ADA, "--yes")["remains"]
        assert {*said["remains"]} == {*whole}
        assert said["remains"]["replica"] <= whole["replica"]


def test_texts_that_are_held_until_they_are_asked_go_too(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box")
    settings = box.directory / "edge-store.toml"
    before, _, after = settings.read_text().partition("[privacy]")
    after = after.partition("\n[privacy.rules]")[2]
    settings.write_text(f'{before}[privacy]\ndetectors = ["email"]\n[privacy.rules]{after}')
    with box.serve() as daemon:
        pause(daemon)
        for user in (ADA, BOB):
            ask(daemon, CHAT, body(user, f"write to {user}@example.org"), **LATER)
        slow = "[demo:slow=10000] write to ada@example.org"
        behind = {"model": "demo", "input": slow, "user": ADA, "background": True}
        ask(daemon, "/v1/responses", behind)
        daemon.kill()
    texts = [path.read_text() for path in (box.directory / "held").iterdir()]
    assert sum(ADA in text for text in texts) == 2
    done = forget(box, "--user", ADA, "--yes")
    assert (done["requests"], done["responses"]) == (1, 1)
    (text,) = (path.read_text() for path in (box.directory / "held").iterdir())
    assert BOB in text


def test_a_stopped_box_forgets_too(box: Box) -> None:
    with box.serve() as daemon:
        chat(daemon, ADA, SECRET)
        chat(daemon, BOB, KEPT)
        assert daemon.stop() == 0
    assert forget(box, "--user", ADA, "--yes")["results"] == 1
    assert SECRET.encode() not in box.everything()
    assert KEPT.encode() in box.everything()
    assert box.proven().faults == ()


def test_what_an_expression_chooses_is_forgotten_and_it_cannot_write(box: Box) -> None:
    with box.serve() as daemon:
        both = lines_of(BOB, SECRET, "a") + lines_of(BOB, KEPT, "b")
        batch = ended(daemon, submit(daemon, text_of(both)))
        done = forget(box, "--where", "input_text LIKE '%sphinx%'", "--yes")
        assert (done["results"], done["lines"]) == (1, 2)
        for expression in ("1); DELETE FROM results; --", "no_such_column = 1", "1 -- all"):
            refused = box.run(
                "forget", "--where", expression, "--yes", "--config", str(box.directory)
            )
            assert refused.returncode != 0
        assert [one["custom_id"] for one in output_of(daemon, batch["output_file_id"])] == [
            "", f"{BOB}-b",
        ]  # fmt: skip
        assert daemon.stop() == 0
    assert SECRET.encode() not in box.everything()
    assert box.rows("SELECT custom_id FROM results") == [(f"{BOB}-b",)]


def test_nothing_is_forgotten_unasked_or_pinned(box: Box) -> None:
    with box.serve() as daemon:
        chat(daemon, ADA, SECRET)
        assert daemon.stop() == 0
    for arguments in ((), ("--user", ADA), ("--user", ADA, "--where", "1"), ("--user", "")):
        done = box.run("forget", *arguments, "--config", str(box.directory))
        assert done.returncode == 2, done.stderr
    assert forget(box, "--where", "1", "--dry-run")["results"] == 1
    assert box.scalar("SELECT count(*) FROM results") == 1


def test_a_copy_that_was_pulled_loses_it_at_the_next_pull(tmp_path: Path) -> None:
    box = Box.init(tmp_path / "box", REPLICA__ENABLED="true")
    fleet = tmp_path / "fleet"

    def pull() -> str:
        done = box.run(
            "fleet", "pull", "--from", str(box.directory / "replica"), "--into", str(fleet)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with box.serve() as daemon:
        chat(daemon, ADA, SECRET)
        chat(daemon, BOB, KEPT)
        chat_until_replicated(daemon)
        assert daemon.stop() == 0
    pull()
    (copy,) = fleet.glob("*.db")
    assert SECRET.encode() in copy.read_bytes()
    older = copy.with_name(f"{copy.stem}.2026-01-01T000000Z.db")
    older.write_bytes(copy.read_bytes())
    with box.serve() as daemon:
        done = forget(box, "--user", ADA, "--yes")
        assert done["remains"]["replica"].startswith("until 20")
        assert "next checkpoint: once 8 MB more are committed" in done["remains"]["database"]
        assert "archive" not in done["remains"]
        assert daemon.stop() == 0
    assert "1 forgotten results deleted in older copies" in pull()
    for each in (copy, older):
        assert SECRET.encode() not in each.read_bytes()
        assert KEPT.encode() in each.read_bytes()
        assert box.run("verify", "--db", str(each)).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ("logs", "rm", "--user", ""),
        ("logs", "rm", "--tenant=", "--model", "demo"),
        ("logs", "rm", "--model", "demo", "--batch", ""),
        ("logs", "rm", "--conversation="),
        ("forget", "--user", ""),
        ("forget", "--user", "", "--where", "1"),
        ("forget", "--user", ADA, "--where", ""),
    ],
)
def test_an_empty_value_chooses_nothing_to_delete(box: Box, command: tuple[str, ...]) -> None:
    with box.serve() as daemon:
        chat(daemon, ADA, SECRET)
        chat(daemon, "", KEPT)
    done = box.run(*command, "--yes", "--config", str(box.directory))
    assert done.returncode == 2
    assert " is empty, and would not say what to delete" in done.stderr
    assert box.scalar("SELECT count(*) FROM results") == 2
