-- Restore drills: what a copy must have, and what came of each.

-- name: count_ledger
SELECT 'boots', coalesce(max(boot_no), 0), count(*) FROM boots WHERE boot_no <= :boots
UNION ALL
SELECT 'commits', coalesce(max(commit_id), 0), count(*) FROM commits WHERE commit_id <= :commits
UNION ALL
SELECT 'deletions', coalesce(max(deletion_id), 0), count(*) FROM deletions
WHERE deletion_id <= :deletions
UNION ALL
SELECT 'drills', coalesce(max(drill_id), 0), count(*) FROM drills WHERE drill_id <= :drills
UNION ALL
SELECT 'losses', coalesce(max(loss_id), 0), count(*) FROM losses WHERE loss_id <= :losses
UNION ALL
SELECT 'timelines', coalesce(max(timeline_no), 0), count(*) FROM timelines
WHERE timeline_no <= :timelines

-- name: select_seqs_deleted
SELECT seq FROM deletions
WHERE what = 'result' AND seq IN (SELECT value FROM json_each(:seqs))

-- name: insert_drill
INSERT INTO drills (
    at, timeline, seq_to, rows, txid, cause, kind, bytes, duration_ms, passed, failure
) VALUES (
    :at, :timeline, :seq_to, :rows, :txid, :cause, :kind, :bytes, :duration_ms, :passed, :failure
)

-- One that passed with a failure is of an earlier version, and proves nothing.
-- name: select_proven
SELECT at, seq_to, txid FROM drills
WHERE passed = 1 AND failure IS NULL AND timeline = :timeline ORDER BY drill_id DESC LIMIT 1

-- name: select_last_drill
SELECT at, passed, timeline, failure FROM drills ORDER BY drill_id DESC LIMIT 1

-- name: select_boot_before_ended
SELECT coalesce(
    (SELECT event = 'end' FROM boots WHERE boot_no < (
        SELECT boot_no FROM boots WHERE boot_id = :boot_id AND event = 'start'
    ) ORDER BY boot_no DESC LIMIT 1),
    1)
