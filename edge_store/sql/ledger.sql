-- What `edge-store ledger` shows.

-- name: select_ledger_by_boot
SELECT
    boot_no, started_at, state, ended_at, admitted, completed, incomplete, failed, cancelled,
    deleted_forget, deleted_retention, lost, in_flight, interrupted, not_stored, percent,
    unknown_after, unknown_until
FROM completeness ORDER BY boot_no

-- name: select_ledger_by_day
SELECT
    day, admitted, completed, incomplete, failed, cancelled, deleted_forget, deleted_retention,
    lost, in_flight, interrupted, not_stored, cuts, percent
FROM completeness_by_day ORDER BY day

-- name: select_cuts
SELECT boot_no, started_at, interrupted, unknown_after, unknown_until
FROM completeness WHERE state = 'interrupted' ORDER BY boot_no

-- name: select_open_boot
SELECT s.boot_no, coalesce(c.at, s.at) AS marked_at
FROM boots AS s
LEFT JOIN boot_extents AS x ON x.boot_no = s.boot_no
LEFT JOIN commits AS c ON c.commit_id = x.last_commit
WHERE s.boot_no = (SELECT max(boot_no) FROM boots) AND s.event = 'start'

-- name: select_restores
SELECT t.started_at AS at, coalesce((
    SELECT c.at FROM boots AS b
    JOIN timelines AS o ON o.timeline = b.timeline
    JOIN boot_extents AS x ON x.boot_no = b.boot_no
    JOIN commits AS c ON c.commit_id = x.last_commit
    WHERE b.event = 'start' AND o.timeline_no < t.timeline_no
    ORDER BY b.boot_no DESC LIMIT 1), 0) AS newest_at
FROM timelines AS t WHERE t.reason = 'restored' ORDER BY t.timeline_no
