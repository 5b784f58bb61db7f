-- Ownership of the replica's path, and heads.

-- name: select_boot_known
SELECT 1 FROM boots WHERE boot_id = :boot_id AND event = 'start'

-- name: select_head_state
SELECT
    (SELECT count(*) FROM results WHERE seq <= :seq) AS rows,
    (SELECT max(c.commit_id) FROM commits AS c WHERE c.seq_to <= :seq) AS commit_id,
    (SELECT c.digest FROM commits AS c WHERE c.seq_to <= :seq ORDER BY c.commit_id DESC LIMIT 1)
        AS digest,
    (SELECT user_version FROM pragma_user_version) AS schema_version
