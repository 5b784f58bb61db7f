"""Of every column that can hold a text it is known whose text that is, and who redacts it.

A new column fails the test until somebody has said so; that it is true the tests of
``tests/e2e/test_redaction.py`` show, place by place.
"""

from pathlib import Path

from support.records import new_database

from edge_store.recorder.redacting import DOCUMENTS, OUTPUT_DOCUMENTS, OUTPUT_TEXTS, TEXTS

# Made by the daemon, chosen from a list of ours, or an operator's: no caller's text, no model's.
OURS = {
    "annotations": "id kind",
    "api_keys": "key_id name tenant scopes record_max sha256",
    "archives": "what store file timeline seqs sha256 stale",
    "batch_events": "batch_id event",
    "batches": "batch_id tenant caller endpoint input_file_id input_sha256 completion_window",
    "boots": "boot_id event timeline device_id version sqlite_version engine engine_version",
    "commits": "boot_id digest previous",
    "conversation_entries": "conversation_id kind id",
    "conversations": "conversation_id tenant",
    "deletions": "what reason id timeline boot_id tenant digest",
    "device": "device_id",
    "drills": "cause kind timeline txid failure",
    "files": "file_id tenant purpose sha256",
    "forgotten": "what id",
    "holds": "name selection note",
    "line_marks": "batch_id mark code",
    "losses": "boot_id id code message",  # of a COMMIT that failed: SQLite's words, without values
    "outputs": "finish_reason json_state repairer constraint_kind",
    "queries": "name sql",
    "queued_requests": "id tenant caller endpoint key_hash fingerprint",
    "repairs": "id json_state repairer",
    "request_blobs": "sha256",
    "requests": "",
    "response_blobs": "id sha256",
    "response_events": "id event code",
    "response_keys": "id tenant key_hash fingerprint",
    "responses": "id tenant caller conversation_id previous_id",
    "results": "timeline id device_id boot_id operation endpoint status engine engine_version "
    "finish_reason conversation_id previous_id batch_id tenant idempotency_key_hash "
    "request_fingerprint error_type privacy digest",
    "sink_letters": "name id error",  # ours: a status, a class
    "sinks": "name timeline failure",
    "timelines": "timeline reason",
}
REDACTED = {
    "annotations": "value",  # routes of stored completions and conversations
    "batch_events": "detail",  # queue/batches.py
    "batches": "metadata",  # api/batches.py
    "conversation_entries": "item",  # api/conversations.py
    "conversations": "metadata",
    "files": "filename",  # api/files.py
    "line_marks": "message",  # queue/asking.py
    "outputs": " ".join((*OUTPUT_TEXTS, *OUTPUT_DOCUMENTS)),
    "queued_requests": "body",  # queue/held.py
    "repairs": "output_json schema_error repair_log",  # repair.py
    "requests": "input_text request_body response_body",
    "response_events": "message",  # api/background.py
    "responses": "request",  # api/background.py, api/foreground.py
    "results": " ".join((*TEXTS, *DOCUMENTS)),
}
REFUSED = {
    "line_marks": "custom_id",
    "results": "custom_id",
}  # where there is a find: queue/batches.py
UNREAD = {"blobs": "sha256 media_type bytes"}  # images and audio


def test_of_every_text_column_it_is_known_who_redacts_it(tmp_path: Path) -> None:
    connection, _ = new_database(tmp_path / "results.db")
    found = {
        (table, column)
        for table, column in connection.execute(
            "SELECT t.name, c.name FROM pragma_table_list AS t, pragma_table_info(t.name) AS c "
            "WHERE t.schema = 'main' AND t.type = 'table' AND c.type IN ('TEXT', 'BLOB', 'ANY')"
            " AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '\\_%' ESCAPE '\\'"
        )
    }
    known = [
        (table, column)
        for tables in (OURS, REDACTED, REFUSED, UNREAD)
        for table, columns in tables.items()
        for column in columns.split()
    ]
    assert len(known) == len(set(known))
    assert set(known) == found
