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
SELECT s.boot_no, coalesce((
    SELECT c.at FROM commits AS c WHERE c.boot_id = s.boot_id
    ORDER BY c.admitted_upto DESC, c.commit_id DESC LIMIT 1), s.at) AS marked_at
FROM boots AS s
WHERE s.boot_no = (SELECT max(boot_no) FROM boots) AND s.event = 'start'

-- name: select_restores
SELECT t.started_at AS at, coalesce((
    SELECT c.at FROM boots AS b
    JOIN timelines AS o ON o.timeline = b.timeline
    JOIN commits AS c ON c.commit_id = (
        SELECT n.commit_id FROM commits AS n WHERE n.boot_id = b.boot_id
        ORDER BY n.admitted_upto DESC, n.commit_id DESC LIMIT 1)
    WHERE b.event = 'start' AND o.timeline_no < t.timeline_no
    ORDER BY b.boot_no DESC LIMIT 1), 0) AS newest_at
FROM timelines AS t WHERE t.reason = 'restored' ORDER BY t.timeline_no
