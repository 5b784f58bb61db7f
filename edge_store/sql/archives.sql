-- The files of the archive, and what is in them.

-- name: select_annotations_of
SELECT at, kind, value FROM annotations WHERE id = :id ORDER BY annotation_id

-- name: select_repairs_of
SELECT at, choice_index, output_json, json_state, schema_valid, schema_error, repair_log, repairer
FROM repairs WHERE id = :id ORDER BY repair_id

-- name: begin_archive
INSERT INTO archives (
    at, what, store, file, timeline, seqs, seq_from, seq_to, completed_from, completed_to, rows
)
SELECT :at, :what, :store, :file, timeline, :seqs, :seq_from, :seq_to, :completed_from,
    :completed_to, :rows
FROM timelines ORDER BY timeline_no DESC LIMIT 1
RETURNING archive_no

-- name: verify_archive
UPDATE archives SET
    bytes = :bytes, sha256 = :sha256, verified_at = :at, seqs = :seqs, seq_from = :seq_from,
    seq_to = :seq_to, rows = :rows
WHERE archive_no = :archive_no AND verified_at IS NULL

-- name: end_archive
UPDATE archives SET emptied_at = :at WHERE archive_no = :archive_no AND emptied_at IS NULL

-- name: drop_archive
DELETE FROM archives WHERE archive_no = :archive_no AND verified_at IS NULL

-- name: intend_rewrite
UPDATE archives SET stale = :file WHERE archive_no = :archive_no AND stale IS NULL

-- name: end_rewrite
UPDATE archives SET
    bytes = :bytes, sha256 = :sha256, seqs = :seqs, rows = :rows, file = stale, stale = file
WHERE archive_no = :archive_no AND stale = :file

-- name: clear_stale
UPDATE archives SET stale = NULL WHERE archive_no = :archive_no AND stale = :file

-- name: select_archives
SELECT archive_no, at, what, store, file, timeline, seqs, seq_from, seq_to, completed_from,
    completed_to, rows, bytes, sha256, verified_at, emptied_at, stale
FROM archives WHERE NOT :unsettled OR emptied_at IS NULL OR stale IS NOT NULL ORDER BY archive_no

-- name: select_forgotten_in_archives
SELECT DISTINCT a.archive_no, d.seq FROM deletions AS d
JOIN archives AS a ON d.seq BETWEEN a.seq_from AND a.seq_to
WHERE d.reason = 'forget' AND a.verified_at IS NOT NULL AND a.rows > 0
    AND (a.what = 'content' OR d.what = 'result')

-- name: insert_old_annotation
INSERT INTO annotations (at, id, kind, value) VALUES (:at, :id, :kind, :value)

-- name: insert_old_repair
INSERT INTO repairs (
    at, id, choice_index, output_json, json_state, schema_valid, schema_error, repair_log, repairer
) VALUES (
    :at, :id, :choice_index, :output_json, :json_state, :schema_valid, :schema_error, :repair_log,
    :repairer
)

-- name: delete_expired
DELETE FROM deletions WHERE seq = :seq AND what = 'content'

-- name: select_is_here
SELECT 1 FROM results WHERE seq = :seq

-- name: select_result_span
SELECT coalesce(min(seq), 0), coalesce(max(seq), 0), count(*) FROM results

-- name: attach_archive
ATTACH :source AS archive

-- name: select_boots
SELECT * FROM boots ORDER BY boot_no

-- name: select_newest_forgotten
SELECT count(*), max(deletion_id) FROM deletions WHERE reason = 'forget'

-- name: begin_numbers
INSERT INTO sqlite_sequence (name, seq) VALUES (:table, :above)

-- name: select_all_seqs
-- Those of results, and of bodies without one.
SELECT seq FROM (
    SELECT seq FROM (SELECT seq FROM results WHERE seq > coalesce(:after, 0) ORDER BY seq LIMIT :rows)
    UNION
    SELECT seq FROM (SELECT seq FROM requests WHERE seq > coalesce(:after, 0) ORDER BY seq LIMIT :rows))
ORDER BY seq LIMIT :rows

-- name: select_all_blobs
SELECT sha256 FROM blobs WHERE sha256 > coalesce(:after, '') ORDER BY sha256 LIMIT :rows

-- name: select_live_of
-- With 1 where its bodies are live, too.
SELECT r.seq, EXISTS (SELECT 1 FROM requests AS q WHERE q.seq = r.seq) FROM results AS r
WHERE r.seq IN (SELECT value FROM json_each(:seqs))

-- name: select_here_of
SELECT seq FROM results WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: select_live_blobs
SELECT sha256 FROM blobs WHERE sha256 IN (SELECT value FROM json_each(:names))

-- name: delete_outputs_of
DELETE FROM outputs WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: delete_deletions_of
DELETE FROM deletions WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: delete_request_blobs_of
DELETE FROM request_blobs WHERE seq IN (SELECT value FROM json_each(:seqs))

-- name: delete_named_blobs
DELETE FROM blobs WHERE sha256 IN (SELECT value FROM json_each(:names))

-- name: select_newest_said
SELECT coalesce((SELECT max(annotation_id) FROM annotations), 0),
    coalesce((SELECT max(repair_id) FROM repairs), 0)
