-- Ownership of the replica's path, and heads.

-- name: select_lineage
SELECT
    EXISTS (SELECT 1 FROM boots WHERE boot_id = :boot_id AND event = 'start') AS knows_boot,
    EXISTS (SELECT 1 FROM boots WHERE boot_id = :boot_id AND event = 'end') AS has_ended,
    EXISTS (SELECT 1 FROM timelines WHERE timeline = :timeline) AS knows_timeline,
    (SELECT reason FROM timelines ORDER BY timeline_no DESC LIMIT 1) AS reason,
    (SELECT digest FROM commits WHERE commit_id = :commit_id) AS digest

-- name: select_last_boot
SELECT boot_id, timeline FROM boots WHERE event = 'start' ORDER BY boot_no DESC LIMIT 1

-- name: select_head_state
SELECT
    (SELECT count(*) FROM results WHERE seq <= :seq) AS rows,
    (SELECT max(c.commit_id) FROM commits AS c WHERE c.seq_to <= :seq) AS commit_id,
    (SELECT c.digest FROM commits AS c WHERE c.seq_to <= :seq ORDER BY c.commit_id DESC LIMIT 1)
        AS digest,
    (SELECT user_version FROM pragma_user_version) AS schema_version
