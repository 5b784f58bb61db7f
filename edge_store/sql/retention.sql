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
-- An id of a size: what SQLite says of a value's length costs no look at the value. An image counts
-- for each that has it.
SELECT r.seq, r.completed_at,
    600 + octet_length(r.params) + coalesce(octet_length(r.metadata), 0)
        + coalesce(octet_length(r.user_id), 0)
        + coalesce((SELECT sum(octet_length(o.output_text) + coalesce(octet_length(o.reasoning), 0)
                        + coalesce(octet_length(o.tool_calls), 0)
                        + coalesce(octet_length(o.output_json), 0))
                    FROM outputs AS o WHERE o.seq = r.seq), 0)
        + coalesce((SELECT octet_length(q.input_text) FROM requests AS q WHERE q.seq = r.seq), 0)
        + coalesce((SELECT octet_length(q.request_body) + octet_length(q.response_body)
                    FROM requests AS q WHERE q.seq = r.seq), 0)
        + coalesce((SELECT sum(octet_length(b.bytes)) FROM request_blobs AS i
                    JOIN blobs AS b USING (sha256) WHERE i.seq = r.seq), 0),
    CASE WHEN substr(r.engine, 1, 7) <> 'import:' THEN r.clock_synced END
FROM results AS r
WHERE r.seq > :after AND r.seq <= :upto ORDER BY r.seq LIMIT :rows

-- name: select_oldest_contents
SELECT q.seq, r.completed_at,
    coalesce(octet_length(q.input_text), 0) + octet_length(q.request_body)
        + octet_length(q.response_body)
        + coalesce((SELECT sum(octet_length(b.bytes)) FROM request_blobs AS i
                    JOIN blobs AS b USING (sha256) WHERE i.seq = q.seq), 0),
    CASE WHEN substr(r.engine, 1, 7) <> 'import:' THEN r.clock_synced END
FROM requests AS q JOIN results AS r ON r.seq = q.seq
WHERE q.seq > :after AND q.seq <= :upto ORDER BY q.seq LIMIT :rows

-- name: select_pages
SELECT (SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count),
    (SELECT page_size FROM pragma_page_size)

-- name: select_said_after
SELECT r.seq FROM results AS r
WHERE r.seq IN (SELECT value FROM json_each(:seqs)) AND (
    EXISTS (SELECT 1 FROM annotations AS a WHERE a.id = r.id AND a.annotation_id > :annotation)
    OR EXISTS (SELECT 1 FROM repairs AS p WHERE p.id = r.id AND p.repair_id > :repair))

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

-- name: select_first_stamped
-- By the clock of this box: not what was imported with the times of then.
SELECT seq, created_at, completed_at, clock_synced FROM results
WHERE seq > :low AND seq <= :high AND substr(engine, 1, 7) <> 'import:' ORDER BY seq LIMIT 1

-- name: select_last_stamped
SELECT seq, created_at, completed_at, clock_synced FROM results
WHERE seq > :low AND seq <= :high AND substr(engine, 1, 7) <> 'import:' ORDER BY seq DESC LIMIT 1

-- name: select_boots_since
SELECT at, after_seq, clock_synced FROM boots WHERE after_seq >= :seq ORDER BY boot_no

-- name: select_last_mark
SELECT at FROM commits ORDER BY commit_id DESC LIMIT 1

-- name: select_leaps
-- Where neighbouring commits, starts and ends are far apart, from the boot of a result on; and, for
-- who stops there, those after the results that are asked about.
WITH origin AS MATERIALIZED (
    SELECT max(boot_no) AS boot_no, after_commit FROM boots
    WHERE event = 'start' AND after_seq < :seq),
marks AS (
    SELECT commit_id AS place, 0 AS part, at, seq_to FROM commits
    WHERE commit_id > (SELECT coalesce(after_commit, 0) FROM origin)
    UNION ALL
    SELECT after_commit, boot_no, at, NULL FROM boots
    WHERE boot_no >= (SELECT coalesce(boot_no, 0) FROM origin)
    ORDER BY place, part)
SELECT seq, at, at - before FROM (
    SELECT
        at, lag(at) OVER in_order AS before,
        coalesce(max(seq_to) OVER (
            in_order ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS seq
    FROM marks WINDOW in_order AS (ORDER BY place, part))
WHERE before IS NOT NULL AND (abs(at - before) > :leap_ms OR seq >= :until)

-- name: select_keepers
-- What changes when something is let go: by numbers, each of which is read from the end of an index;
-- of annotations only those that are new.
SELECT
    (SELECT count(*) FROM holds WHERE ended_at IS NULL), (SELECT max(hold_no) FROM holds),
    (SELECT count(*) FROM open_batches), (SELECT max(batch_no) FROM open_batches),
    (SELECT count(*) FROM open_responses), (SELECT max(response_no) FROM open_responses),
    (SELECT max(repair_id) FROM repairs),
    (SELECT coalesce(max(annotation_id), :after) FROM annotations),
    EXISTS (SELECT 1 FROM annotations WHERE annotation_id > :after AND kind = 'pin')
