-- What the writer executes. Positional parameters: columns in the order of result.py's fields.

-- name: begin
BEGIN IMMEDIATE

-- name: commit
COMMIT

-- name: rollback
ROLLBACK

-- name: savepoint
SAVEPOINT one_row

-- name: rollback_to_savepoint
ROLLBACK TO one_row

-- name: release_savepoint
RELEASE one_row

-- name: insert_result
INSERT INTO results (
    seq, timeline, id, device_id, boot_id, boot_seq, operation, endpoint, status,
    request_model, response_model, engine, engine_version, params,
    created_at, first_token_at, completed_at, clock_synced, latency_ms, ttft_ms, queue_ms,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, finish_reason, stream,
    conversation_id, previous_id, batch_id, custom_id, tenant, user_id, metadata, caller_rid,
    response_id, idempotency_key_hash, request_fingerprint, trace_id, http_status, error_type,
    error_message, privacy, digest
) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
)

-- name: insert_output
INSERT INTO outputs (
    seq, choice_index, output_text, reasoning, tool_calls, finish_reason, output_json, json_state,
    schema_valid, schema_error, repair_log, repairer, constraint_kind, constraint_holds,
    constraint_error
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_content
INSERT INTO requests (seq, input_text, request_body, response_body, output_at)
VALUES (?, ?, ?, ?, ?)

-- name: insert_blob
INSERT INTO blobs (sha256, media_type, bytes)
SELECT :sha256, :media_type, :bytes WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE sha256 = :sha256)

-- name: insert_request_blob
INSERT INTO request_blobs (seq, place, byte_offset, is_escaped, sha256) VALUES (?, ?, ?, ?, ?)

-- name: insert_commit
INSERT INTO commits (boot_id, at, admitted_upto, seq_from, seq_to, digest, previous)
VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: insert_boot
INSERT INTO boots (
    boot_id, event, at, timeline, device_id, version, sqlite_version, engine, engine_version,
    clock_synced, after_seq, after_commit
) VALUES (:boot_id, :event, :at, :timeline, :device_id, :version, :sqlite_version, :engine,
    :engine_version, :clock_synced,
    coalesce(
        (SELECT seq_to FROM commits WHERE seq_to IS NOT NULL ORDER BY commit_id DESC LIMIT 1), 0),
    coalesce((SELECT max(commit_id) FROM commits), 0))

-- name: insert_device
INSERT INTO device (only, device_id, created_at) VALUES (1, :device_id, :created_at)

-- name: select_device
SELECT device_id FROM device

-- name: insert_timeline
INSERT INTO timelines (timeline, started_at, reason) VALUES (:timeline, :started_at, :reason)

-- name: select_timeline
SELECT timeline, reason FROM timelines ORDER BY timeline_no DESC LIMIT 1

-- name: select_last_seq
SELECT coalesce(
    (SELECT seq_to FROM commits WHERE seq_to IS NOT NULL ORDER BY commit_id DESC LIMIT 1),
    0)

-- name: select_last_digest
SELECT digest FROM commits ORDER BY commit_id DESC LIMIT 1

-- name: is_json
SELECT json_valid(?)

-- name: select_last_boot_ended
SELECT coalesce(
    (SELECT event = 'end' FROM boots ORDER BY boot_no DESC LIMIT 1),
    1)

-- name: insert_loss
INSERT INTO losses (at, boot_id, boot_seq, id, code, message)
SELECT :at, :boot_id, :boot_seq, :id, :code, :message
WHERE NOT EXISTS (SELECT 1 FROM results WHERE id = :id)
AND NOT EXISTS (SELECT 1 FROM losses WHERE boot_id = :boot_id AND boot_seq = :boot_seq)

-- name: select_database_path
SELECT file FROM pragma_database_list WHERE name = 'main'

-- name: select_newest_link
SELECT boot_id, at, admitted_upto, seq_from, seq_to, digest, previous
FROM commits ORDER BY commit_id DESC LIMIT 1
