-- What a receipt is made of.

-- name: select_result_place
SELECT r.seq, r.timeline, r.boot_id, r.digest, t.timeline_no
FROM results AS r LEFT JOIN timelines AS t ON t.timeline = r.timeline
WHERE r.id = :id AND (:of_tenant IS NULL OR r.tenant = :of_tenant)

-- name: select_deletion_by_id
SELECT d.seq, d.timeline, d.boot_id, d.digest, t.timeline_no, d.at, d.reason, f.store, f.file
FROM deletions AS d JOIN timelines AS t ON t.timeline = d.timeline
LEFT JOIN archived AS a ON a.deletion_id = d.deletion_id
LEFT JOIN archives AS f ON f.archive_no = a.archive_no
WHERE d.id = :id AND d.what = 'result' AND (:of_tenant IS NULL OR d.tenant = :of_tenant)
ORDER BY d.reason LIMIT 1

-- name: select_loss_by_id
SELECT l.at, l.code, l.message, b.boot_no
FROM losses AS l LEFT JOIN boots AS b ON b.boot_id = l.boot_id AND b.event = 'start'
WHERE l.id = :id ORDER BY l.loss_id LIMIT 1

-- name: select_newest_drill
SELECT d.drill_id, d.at, d.txid FROM drills AS d JOIN timelines AS t ON t.timeline = d.timeline
WHERE d.passed = 1 AND d.failure IS NULL AND d.seq_to >= :seq AND t.timeline_no >= :timeline_no
ORDER BY d.drill_id DESC LIMIT 1

-- name: select_boot_of_id
SELECT boot_id FROM boots WHERE event = 'start' AND boot_id <= :id ORDER BY boot_id DESC LIMIT 1

-- name: select_boot_account
SELECT
    s.boot_no,
    EXISTS (SELECT 1 FROM boots AS e WHERE e.boot_id = s.boot_id AND e.event = 'end') AS is_ended,
    (SELECT n.at FROM boots AS n WHERE n.boot_no > s.boot_no ORDER BY n.boot_no LIMIT 1) AS next_at,
    coalesce(c.at, s.at) AS marked_at,
    coalesce(c.admitted_upto, 0)
        - (SELECT count(*) FROM results AS r WHERE r.seq BETWEEN x.seq_from AND x.seq_to)
        - (SELECT count(*) FROM losses AS l WHERE l.boot_id = s.boot_id)
        - (SELECT count(DISTINCT d.boot_seq) FROM deletions AS d
           WHERE d.boot_id = s.boot_id AND d.what = 'result') AS missing
FROM boots AS s
LEFT JOIN boot_extents AS x ON x.boot_no = s.boot_no
LEFT JOIN commits AS c ON c.commit_id = x.last_commit
WHERE s.boot_id = :boot_id AND s.event = 'start'

-- name: select_commit_upwards
SELECT commit_id, at, seq_from, seq_to, digest FROM commits
WHERE commit_id >= :commit_id AND seq_to IS NOT NULL ORDER BY commit_id LIMIT 1

-- name: select_carrying_commit
SELECT boot_id, at, admitted_upto, seq_from, seq_to, digest, previous
FROM commits WHERE commit_id = :commit_id

-- name: select_last_commit_id
SELECT coalesce(max(commit_id), 0) FROM commits
