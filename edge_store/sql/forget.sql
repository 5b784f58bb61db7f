-- What is to be forgotten, and its deletion. `:expression` is put in as text: it is the operator's
-- own SQL; so is `:condition`: a selection's. `:ids` and `:seqs` are JSON arrays.

-- name: select_results_of_user
SELECT seq, id FROM results WHERE user_id = :user ORDER BY seq

-- name: select_results_where
SELECT seq, id FROM results LEFT JOIN (
    SELECT q.seq, q.input_text, q.request_body,
        (SELECT b.response_body FROM bodies AS b WHERE b.seq = q.seq) AS response_body
    FROM requests AS q) AS requests USING (seq)
WHERE :expression ORDER BY seq

-- name: select_results_of_ids
SELECT seq, id FROM results WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY seq

-- name: select_results_selected
SELECT r.seq, r.id FROM results AS r WHERE (:condition) ORDER BY r.seq

-- name: select_ids_of
SELECT seq, id FROM results WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: select_lines_of
SELECT DISTINCT batch_id, custom_id FROM results
WHERE seq IN (SELECT value FROM json_each(:seqs)) AND batch_id IS NOT NULL

-- name: select_results_of_line
SELECT seq, id FROM results WHERE batch_id = :batch_id AND custom_id IS :custom_id

-- name: select_turns
SELECT seq, id, previous_id, conversation_id FROM results
WHERE previous_id IS NOT NULL OR conversation_id IS NOT NULL

-- name: select_unanswered_responses
SELECT id, previous_id, conversation_id, request, is_held FROM responses AS r
WHERE NOT EXISTS (SELECT 1 FROM results AS s WHERE s.id = r.id)

-- name: select_queued_bodies
SELECT id, endpoint, body, is_held FROM queued_requests

-- name: select_pinned
SELECT DISTINCT p.id FROM annotations AS p
WHERE p.kind = 'pin' AND p.id IN (SELECT value FROM json_each(:ids)) AND (
    SELECT n.value FROM annotations AS n WHERE n.id = p.id AND n.kind = 'pin'
    ORDER BY n.annotation_id DESC LIMIT 1) NOT IN ('false', 'null')

-- name: select_input_files
SELECT sha256 FROM files WHERE purpose = 'batch' UNION SELECT input_sha256 FROM batches

-- name: select_batch_inputs
SELECT batch_id, input_sha256 FROM batches

-- name: select_batch_outputs
SELECT DISTINCT f.sha256 FROM batch_events AS e JOIN files AS f
    ON f.file_id IN (e.detail ->> '$.output_file_id', e.detail ->> '$.error_file_id')
WHERE e.batch_id = :batch_id

-- name: note_forgotten
INSERT INTO forgotten (at, what, id)
SELECT :at, 'request', id FROM queued_requests WHERE id IN (SELECT value FROM json_each(:ids))
UNION ALL
SELECT :at, 'response', id FROM responses AS r WHERE id IN (SELECT value FROM json_each(:ids))
UNION ALL
SELECT :at, 'conversation', conversation_id FROM conversations
WHERE conversation_id IN (SELECT value FROM json_each(:ids))

-- name: note_forgotten_lines
INSERT INTO forgotten (at, what, id) VALUES (:at, 'lines', :sha256)

-- name: forget_queued_requests
DELETE FROM queued_requests WHERE id IN (SELECT value FROM json_each(:ids))

-- name: forget_responses
DELETE FROM responses WHERE id IN (SELECT value FROM json_each(:ids))

-- name: forget_conversations
DELETE FROM conversations WHERE conversation_id IN (SELECT value FROM json_each(:ids))

-- name: forget_annotations
DELETE FROM annotations WHERE id IN (SELECT value FROM json_each(:ids))

-- name: forget_marks_of_requests
DELETE FROM line_marks WHERE batch_id IN (SELECT value FROM json_each(:ids))

-- name: forget_loss_messages
UPDATE losses SET message = '' WHERE id IN (SELECT value FROM json_each(:ids))

-- name: forget_marks_of_line
DELETE FROM line_marks WHERE batch_id = :batch_id AND custom_id IS :custom_id

-- name: select_forgotten_ids
SELECT id FROM deletions WHERE reason = 'forget' AND what = 'result'
UNION
SELECT id FROM forgotten WHERE what <> 'lines'

-- name: select_last_tombstones
SELECT
    (SELECT coalesce(max(deletion_id), 0) FROM deletions),
    (SELECT coalesce(max(forgotten_no), 0) FROM forgotten)

-- name: select_last_forgotten_at
SELECT max(at) FROM (
    SELECT max(at) AS at FROM deletions WHERE reason = 'forget'
    UNION ALL SELECT max(at) FROM forgotten)

-- name: is_forgotten_since
SELECT EXISTS (SELECT 1 FROM deletions WHERE deletion_id > :after AND +reason = 'forget')

-- name: select_seqs_of_ids
SELECT seq FROM results WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY seq
