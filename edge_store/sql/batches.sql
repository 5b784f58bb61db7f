-- Files, batches, the queue.

-- name: insert_file
INSERT INTO files (file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256)
VALUES (:file_id, :created_at, :expires_at, :tenant, :purpose, :filename, :bytes, :sha256)

-- name: select_file
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE file_id = :file_id AND (:tenant IS NULL OR tenant = :tenant)
    AND (expires_at IS NULL OR expires_at > :now)

-- name: select_files
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE (:tenant IS NULL OR tenant = :tenant) AND (expires_at IS NULL OR expires_at > :now)
    AND (:purpose IS NULL OR purpose = :purpose)
    AND (:after IS NULL OR file_no < (
        SELECT file_no FROM files WHERE file_id = :after AND (:tenant IS NULL OR tenant = :tenant)))
ORDER BY file_no DESC LIMIT :limit

-- name: select_files_ascending
SELECT file_id, created_at, expires_at, tenant, purpose, filename, bytes, sha256 FROM files
WHERE (:tenant IS NULL OR tenant = :tenant) AND (expires_at IS NULL OR expires_at > :now)
    AND (:purpose IS NULL OR purpose = :purpose)
    AND (:after IS NULL OR file_no > (
        SELECT file_no FROM files WHERE file_id = :after AND (:tenant IS NULL OR tenant = :tenant)))
ORDER BY file_no LIMIT :limit

-- name: delete_file
DELETE FROM files WHERE file_id = :file_id

-- name: delete_expired_files
DELETE FROM files WHERE expires_at <= :now

-- name: select_needed_sha256s
SELECT sha256 FROM files
UNION
SELECT input_sha256 FROM batches AS b
WHERE (SELECT e.event FROM batch_events AS e WHERE e.batch_id = b.batch_id
       ORDER BY e.event_no DESC LIMIT 1)
    NOT IN ('failed', 'completed', 'expired', 'cancelled')

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

-- name: select_batches
SELECT batch_no, batch_id, created_at, tenant, caller, endpoint, input_file_id, input_sha256,
    completion_window, output_expires_s, metadata
FROM batches
WHERE (:tenant IS NULL OR tenant = :tenant)
    AND (:after IS NULL OR batch_no < (
        SELECT batch_no FROM batches WHERE batch_id = :after AND (:tenant IS NULL OR tenant = :tenant)))
ORDER BY batch_no DESC LIMIT :limit

-- name: select_open_batches
SELECT batch_no, batch_id, created_at, tenant, caller, endpoint, input_file_id, input_sha256,
    completion_window, output_expires_s, metadata
FROM batches AS b
WHERE (SELECT e.event FROM batch_events AS e WHERE e.batch_id = b.batch_id
       ORDER BY e.event_no DESC LIMIT 1)
    NOT IN ('failed', 'completed', 'expired', 'cancelled')
ORDER BY batch_no LIMIT :limit

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
SELECT r.id, r.status, r.http_status, r.error_type, r.error_message, q.response_body
FROM results AS r LEFT JOIN requests AS q ON q.seq = r.seq
WHERE r.batch_id = :batch_id AND r.custom_id = :custom_id AND r.status IN ('completed', 'failed')
ORDER BY r.status = 'completed' DESC, r.seq DESC LIMIT 1

-- name: select_batch_usage
SELECT coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0),
    coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0)
FROM results WHERE batch_id = :batch_id AND iif(status = 'completed', 0, seq) = 0

-- name: insert_queued_request
INSERT INTO queued_requests (id, created_at, tenant, caller, endpoint, body)
VALUES (:id, :created_at, :tenant, :caller, :endpoint, :body)

-- name: count_queued_requests
SELECT count(*) FROM queued_requests

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
SELECT id, created_at, caller, endpoint, body, request_no FROM queued_requests AS r
WHERE request_no > :after AND NOT EXISTS (
    SELECT 1 FROM line_marks AS m
    WHERE m.batch_id = r.id AND m.custom_id IS NULL AND m.mark = 'refused')
ORDER BY request_no LIMIT :limit

-- name: select_queued_request
SELECT created_at FROM queued_requests
WHERE id = :id AND (:tenant IS NULL OR tenant = :tenant)

-- name: had_result
SELECT EXISTS (SELECT 1 FROM results WHERE id = :id)
    OR EXISTS (SELECT 1 FROM deletions WHERE id = :id AND what = 'result')

-- name: delete_finished_requests
DELETE FROM queued_requests
WHERE (:id IS NULL OR id = :id) AND (
    EXISTS (SELECT 1 FROM results WHERE results.id = queued_requests.id)
    OR EXISTS (
        SELECT 1 FROM deletions
        WHERE deletions.id = queued_requests.id AND deletions.what = 'result'))

-- name: insert_queue_switch
INSERT INTO queue_switches (at, is_paused) VALUES (:at, :is_paused)

-- name: select_queue_switch
SELECT is_paused FROM queue_switches ORDER BY switch_no DESC LIMIT 1
