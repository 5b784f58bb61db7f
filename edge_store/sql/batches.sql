-- Files, batches, the queue.

-- name: insert_file
INSERT INTO files (file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256)
VALUES (:file_id, :created_at, :expires_at, :tenant, :purpose, :filename, :bytes, :sha256)

-- name: select_file
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE file_id = :file_id AND (:tenant IS NULL OR tenant = :tenant)
    AND (expires_at IS NULL OR expires_at > :now)

-- name: select_file_no
SELECT file_no FROM files WHERE file_id = :id AND (:tenant IS NULL OR tenant = :tenant)

-- name: select_files_before
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE file_no < :place AND (expires_at IS NULL OR expires_at > :now)
    AND (:purpose IS NULL OR purpose = :purpose)
ORDER BY file_no DESC LIMIT :limit

-- name: select_files_after
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE file_no > :place AND (expires_at IS NULL OR expires_at > :now)
    AND (:purpose IS NULL OR purpose = :purpose)
ORDER BY file_no LIMIT :limit

-- name: select_files_of_tenant_before
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE tenant = :tenant AND file_no < :place AND (expires_at IS NULL OR expires_at > :now)
    AND (:purpose IS NULL OR purpose = :purpose)
ORDER BY file_no DESC LIMIT :limit

-- name: select_files_of_tenant_after
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE tenant = :tenant AND file_no > :place AND (expires_at IS NULL OR expires_at > :now)
    AND (:purpose IS NULL OR purpose = :purpose)
ORDER BY file_no LIMIT :limit

-- name: delete_file
DELETE FROM files WHERE file_id = :file_id

-- name: delete_expired_files
DELETE FROM files WHERE expires_at <= :now

-- name: select_needed_sha256s
SELECT sha256 FROM files WHERE sha256 IN (SELECT value FROM json_each(:sha256s))
UNION
SELECT b.input_sha256 FROM open_batches AS o CROSS JOIN batches AS b ON b.batch_no = o.batch_no

-- name: select_restored_at
SELECT coalesce(max(started_at), 0) FROM timelines WHERE reason = 'restored'

-- name: insert_batch
INSERT INTO batches (
    batch_id, created_at, tenant, caller, endpoint, input_file_id, input_sha256, completion_window,
    output_expires_s, metadata)
VALUES (
    :batch_id, :created_at, :tenant, :caller, :endpoint, :input_file_id, :input_sha256,
    :completion_window, :output_expires_s, :metadata)

-- name: insert_batch_event
INSERT INTO batch_events (batch_id, at, event, expires_at, detail)
VALUES (:batch_id, :at, :event, :expires_at, :detail)

-- name: select_batch
SELECT batch_no, batch_id, created_at, tenant, caller, endpoint, input_file_id, input_sha256,
    completion_window, output_expires_s, metadata
FROM batches WHERE batch_id = :batch_id AND (:tenant IS NULL OR tenant = :tenant)

-- name: select_batch_no
SELECT batch_no FROM batches WHERE batch_id = :id AND (:tenant IS NULL OR tenant = :tenant)

-- name: select_batches_before
SELECT batch_no, batch_id, created_at, tenant, caller, endpoint, input_file_id, input_sha256,
    completion_window, output_expires_s, metadata
FROM batches WHERE batch_no < :place ORDER BY batch_no DESC LIMIT :limit

-- name: select_batches_of_tenant_before
SELECT batch_no, batch_id, created_at, tenant, caller, endpoint, input_file_id, input_sha256,
    completion_window, output_expires_s, metadata
FROM batches WHERE tenant = :tenant AND batch_no < :place ORDER BY batch_no DESC LIMIT :limit

-- name: insert_open_batch
INSERT INTO open_batches SELECT batch_no FROM batches WHERE batch_id = :batch_id
    AND batch_no NOT IN (SELECT batch_no FROM open_batches)

-- name: delete_open_batch
DELETE FROM open_batches WHERE batch_no = (
    SELECT batch_no FROM batches WHERE batch_id = :batch_id)

-- name: select_open_batches
SELECT b.batch_no, b.batch_id, b.created_at, b.tenant, b.caller, b.endpoint, b.input_file_id,
    b.input_sha256, b.completion_window, b.output_expires_s, b.metadata
FROM (
    SELECT t.batch_no, row_number() OVER (PARTITION BY c.tenant ORDER BY t.batch_no) AS turn
    FROM open_batches AS t CROSS JOIN batches AS c ON c.batch_no = t.batch_no) AS o
CROSS JOIN batches AS b ON b.batch_no = o.batch_no
ORDER BY o.turn, o.batch_no LIMIT :limit

-- name: select_batch_events
SELECT at, event, expires_at, detail FROM batch_events WHERE batch_id = :batch_id ORDER BY event_no

-- name: select_completed_lines
SELECT custom_id FROM results
WHERE batch_id = :batch_id AND iif(status = 'completed', 0, seq) = 0

-- name: select_attempts
SELECT custom_id, seq, http_status, coalesce(error_type, '') FROM results
WHERE batch_id = :batch_id AND status = 'failed'

-- name: select_attempts_of_line
SELECT seq, http_status, coalesce(error_type, ''), status = 'completed' FROM results
WHERE batch_id = :batch_id AND custom_id = :custom_id AND status IN ('completed', 'failed')

-- name: select_newest_line_mark
SELECT mark, after_seq FROM line_marks
WHERE batch_id = :batch_id AND custom_id = :custom_id ORDER BY mark_no DESC LIMIT 1

-- name: select_line_marks
SELECT custom_id, mark, after_seq FROM line_marks WHERE batch_id = :batch_id ORDER BY mark_no

-- name: select_line_mark
SELECT http_status, code, message FROM line_marks
WHERE batch_id = :batch_id AND custom_id IS :custom_id AND mark = 'refused'
ORDER BY mark_no DESC LIMIT 1

-- name: is_line_deleted
SELECT EXISTS (SELECT 1 FROM line_marks
    WHERE batch_id = :batch_id AND custom_id = :custom_id AND mark = 'done')

-- name: insert_line_mark
INSERT INTO line_marks (batch_id, custom_id, at, mark, after_seq, http_status, code, message)
VALUES (:batch_id, :custom_id, :at, :mark, :after_seq, :http_status, :code, :message)

-- name: select_line_outcome
SELECT r.id, r.status, r.http_status, r.error_type, r.error_message,
    (SELECT q.response_body FROM bodies AS q WHERE q.seq = r.seq)
FROM results AS r
WHERE r.batch_id = :batch_id AND r.custom_id = :custom_id AND r.status IN ('completed', 'failed')
ORDER BY r.status = 'completed' DESC, r.seq DESC LIMIT 1

-- name: select_batch_usage
SELECT coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0),
    coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0)
FROM results WHERE batch_id = :batch_id AND iif(status = 'completed', 0, seq) = 0

-- name: insert_queued_request
INSERT INTO queued_requests (
    id, created_at, tenant, caller, endpoint, body, is_held, key_hash, fingerprint)
VALUES (
    :id, :created_at, :tenant, :caller, :endpoint, :body, :is_held, :key_hash, :fingerprint)

-- name: select_queued_request_by_key
SELECT id, endpoint, fingerprint, created_at FROM queued_requests AS r
WHERE key_hash = :key_hash AND tenant IS :tenant AND created_at > :since AND NOT EXISTS (
    SELECT 1 FROM line_marks AS m
    WHERE m.batch_id = r.id AND m.custom_id IS NULL AND m.mark = 'refused')
ORDER BY request_no DESC LIMIT 1

-- name: count_queued_requests
SELECT count(*), count(*) FILTER (WHERE tenant IS :tenant) FROM queued_requests

-- name: count_waiting_requests
SELECT count(*) FROM queued_requests AS r
WHERE NOT EXISTS (
    SELECT 1 FROM line_marks AS m
    WHERE m.batch_id = r.id AND m.custom_id IS NULL AND m.mark = 'refused')

-- name: delete_refused_requests
DELETE FROM queued_requests WHERE id IN (
    SELECT r.id FROM queued_requests AS r
    JOIN line_marks AS m ON m.batch_id = r.id AND m.custom_id IS NULL
    WHERE m.mark = 'refused' AND m.at <= :until)
RETURNING id

-- name: delete_request_marks
DELETE FROM line_marks WHERE batch_id = :id AND custom_id IS NULL

-- name: select_queued_requests
SELECT r.id, r.created_at, r.caller, r.endpoint, r.body, r.is_held, r.key_hash, r.fingerprint,
    r.request_no
FROM (
    SELECT request_no, row_number() OVER (PARTITION BY tenant ORDER BY request_no) AS turn
    FROM queued_requests AS q
    WHERE request_no NOT IN (SELECT value FROM json_each(:taken)) AND NOT EXISTS (
        SELECT 1 FROM line_marks AS m
        WHERE m.batch_id = q.id AND m.custom_id IS NULL AND m.mark = 'refused')) AS o
CROSS JOIN queued_requests AS r ON r.request_no = o.request_no
ORDER BY o.turn, o.request_no LIMIT :limit

-- name: select_queued_request
SELECT created_at FROM queued_requests
WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant)

-- name: had_result
SELECT EXISTS (SELECT 1 FROM results WHERE id = :id)
    OR EXISTS (SELECT 1 FROM deletions WHERE id = :id AND what = 'result')

-- name: delete_finished_request
DELETE FROM queued_requests WHERE id = :id AND (
    EXISTS (SELECT 1 FROM results WHERE results.id = :id)
    OR EXISTS (SELECT 1 FROM deletions WHERE deletions.id = :id AND deletions.what = 'result'))

-- name: delete_finished_requests
DELETE FROM queued_requests WHERE (
    EXISTS (SELECT 1 FROM results WHERE results.id = queued_requests.id)
    OR EXISTS (
        SELECT 1 FROM deletions
        WHERE deletions.id = queued_requests.id AND deletions.what = 'result'))

-- name: select_held_ids
SELECT id FROM queued_requests AS r
WHERE is_held AND NOT EXISTS (
    SELECT 1 FROM line_marks AS m
    WHERE m.batch_id = r.id AND m.custom_id IS NULL AND m.mark = 'refused')
UNION
SELECT id FROM responses AS r
WHERE is_held AND background
    AND NOT EXISTS (SELECT 1 FROM results AS s WHERE s.id = r.id)
    AND NOT EXISTS (
        SELECT 1 FROM response_events AS e WHERE e.id = r.id AND e.event IN ('cancelled', 'failed'))

-- name: insert_queue_switch
INSERT INTO queue_switches (at, is_paused) VALUES (:at, :is_paused)

-- name: select_queue_switch
SELECT is_paused FROM queue_switches ORDER BY switch_no DESC LIMIT 1
