-- Ownership of the replica's path, heads, and copies beside them.

-- name: select_lineage
SELECT
    EXISTS (SELECT 1 FROM boots WHERE boot_id = :boot_id AND event = 'start') AS knows_boot,
    EXISTS (SELECT 1 FROM boots WHERE boot_id = :boot_id AND event = 'end') AS has_ended,
    EXISTS (SELECT 1 FROM timelines WHERE timeline = :timeline) AS knows_timeline,
    (SELECT reason FROM timelines ORDER BY timeline_no DESC LIMIT 1) AS reason,
    (SELECT digest FROM commits WHERE commit_id = :commit_id) AS digest

-- name: count_results
SELECT
    (SELECT count(*) FROM results WHERE seq <= :seq),
    (SELECT coalesce(max(deletion_id), 0) FROM deletions)

-- name: count_results_since
-- A result goes once, with its first row of deletions; to forget it later adds another one.
SELECT
    (SELECT count(*) FROM results WHERE seq > :before AND seq <= :seq) AS came,
    (SELECT count(*) FROM deletions AS d
     WHERE d.deletion_id > :deletion_id AND d.what = 'result' AND d.seq <= :before
        AND NOT EXISTS (
            SELECT 1 FROM deletions AS e
            WHERE e.seq = d.seq AND e.what = d.what AND e.timeline = d.timeline
                AND e.deletion_id < d.deletion_id)) AS went,
    (SELECT coalesce(max(deletion_id), :deletion_id) FROM deletions) AS deletion_id

-- name: select_schema_version
SELECT user_version FROM pragma_user_version

-- name: select_copy_extent
SELECT
    (SELECT timeline FROM timelines ORDER BY timeline_no DESC LIMIT 1),
    coalesce((SELECT seq_to FROM commits WHERE seq_to IS NOT NULL ORDER BY commit_id DESC LIMIT 1), 0)

-- name: select_a_boot
SELECT boot_id FROM boots LIMIT 1
