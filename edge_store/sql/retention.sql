-- What retention looks at before it deletes, and the holds that stop it. `:seqs` is a JSON array.

-- name: insert_hold
INSERT INTO holds (at, name, selection, note) VALUES (:at, :name, :selection, :note)
RETURNING hold_no

-- name: end_hold
UPDATE holds SET ended_at = :at WHERE name = :name AND ended_at IS NULL RETURNING hold_no

-- name: select_holds
SELECT hold_no, at, name, selection, note, ended_at FROM holds
WHERE :ended OR ended_at IS NULL ORDER BY hold_no

-- name: select_chosen_of
SELECT r.seq FROM results AS r WHERE r.seq IN (SELECT value FROM json_each(:seqs)) AND :condition

-- name: select_needed
-- What something that has not ended depends on.
SELECT r.seq FROM results AS r
WHERE r.seq IN (SELECT value FROM json_each(:seqs)) AND (
    r.batch_id IN (SELECT b.batch_id FROM open_batches AS o JOIN batches AS b USING (batch_no))
    OR r.id IN (SELECT p.id FROM open_responses AS o JOIN responses AS p USING (response_no)))

-- name: select_oldest_results
-- An id of a size: what SQLite says of a value's length costs no look at the value.
SELECT r.seq, r.completed_at,
    600 + coalesce((SELECT sum(octet_length(o.output_text) + coalesce(octet_length(o.reasoning), 0))
                    FROM outputs AS o WHERE o.seq = r.seq), 0)
        + coalesce((SELECT octet_length(q.input_text) FROM requests AS q WHERE q.seq = r.seq), 0)
        + coalesce((SELECT octet_length(q.request_body) + octet_length(q.response_body)
                    FROM requests AS q WHERE q.seq = r.seq), 0)
FROM results AS r
WHERE r.seq > :after AND r.seq <= :upto ORDER BY r.seq LIMIT :rows

-- name: select_oldest_contents
SELECT q.seq, r.completed_at,
    coalesce(octet_length(q.input_text), 0) + octet_length(q.request_body)
        + octet_length(q.response_body)
FROM requests AS q JOIN results AS r ON r.seq = q.seq
WHERE q.seq > :after AND q.seq <= :upto ORDER BY q.seq LIMIT :rows

-- name: select_pages
SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count),
    (SELECT page_size FROM pragma_page_size)

-- name: select_said_since
-- What claims to be from the future is from before: of a clock that was wrong.
SELECT r.seq FROM archives AS f CROSS JOIN results AS r
WHERE f.archive_no = :archive_no AND r.seq IN (SELECT value FROM json_each(:seqs)) AND (
    EXISTS (SELECT 1 FROM annotations AS a WHERE a.id = r.id AND a.at BETWEEN f.at AND :now)
    OR EXISTS (SELECT 1 FROM repairs AS p WHERE p.id = r.id AND p.at BETWEEN f.at AND :now))

-- name: note_archived
INSERT OR IGNORE INTO archived (deletion_id, archive_no)
SELECT deletion_id, :archive_no FROM deletions
WHERE seq IN (SELECT value FROM json_each(:seqs)) AND what = :what AND reason = 'retention'
    AND deletion_id > :after

-- name: count_held
SELECT count(*) FROM results AS r WHERE :condition

-- name: vacuum
VACUUM

-- name: select_newest_seq
SELECT coalesce(max(seq), 0) FROM results
