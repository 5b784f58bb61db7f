-- What retention and forget execute. `:seqs` is a JSON array.

-- name: note_deleted_results
INSERT INTO deletions (
    at, what, reason, id, seq, timeline, boot_id, boot_seq, created_at, tenant, digest
)
SELECT :at, 'result', :reason, id, seq, timeline, boot_id, boot_seq, created_at, tenant,
    digest
FROM results WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: note_deleted_content
INSERT INTO deletions (
    at, what, reason, id, seq, timeline, boot_id, boot_seq, created_at, tenant, digest
)
SELECT :at, 'content', :reason, id, seq, timeline, boot_id, boot_seq, created_at, tenant,
    :digest
FROM results WHERE seq = :seq

-- name: note_forgotten_again
INSERT INTO deletions (
    at, what, reason, id, seq, timeline, boot_id, boot_seq, created_at, tenant, digest
)
SELECT :at, d.what, :reason, d.id, d.seq, d.timeline, d.boot_id, d.boot_seq, d.created_at,
    d.tenant, d.digest
FROM deletions AS d
WHERE d.what = :what AND d.reason = 'retention' AND d.seq IN (SELECT value FROM json_each(:seqs))
    AND d.boot_id IN (SELECT boot_id FROM boots)
    AND NOT EXISTS (
        SELECT 1 FROM deletions AS f
        WHERE f.seq = d.seq AND f.what = d.what AND f.timeline = d.timeline AND f.reason = 'forget')

-- name: select_contents
SELECT seq, input_text, request_body, response_body FROM bodies
WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: mark_deleted_lines
INSERT INTO line_marks (batch_id, custom_id, at, mark, after_seq)
SELECT batch_id, custom_id, :at, 'done', seq FROM results
WHERE seq IN (SELECT value FROM json_each(:seqs)) AND status = 'completed'
    AND batch_id IS NOT NULL AND custom_id IS NOT NULL

-- name: delete_annotations
DELETE FROM annotations WHERE id IN (
    SELECT id FROM results WHERE seq IN (SELECT value FROM json_each(:seqs)))

-- name: delete_repairs
DELETE FROM repairs WHERE id IN (
    SELECT id FROM results WHERE seq IN (SELECT value FROM json_each(:seqs)))

-- name: delete_results
DELETE FROM results WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: delete_contents
DELETE FROM requests WHERE seq IN (SELECT value FROM json_each(:seqs))
