-- What `edge-store ledger` shows. :cut_day is the day of the newest boot's last mark where that boot
-- was cut, and no daemon has started since; else NULL: then what is in flight goes on. :is_copy is
-- whether nobody knows: then no share of what has ended is known where something is in flight.

-- name: select_ledger_by_boot
WITH known AS (
    SELECT *,
        :cut_day IS NOT NULL AND state = 'open' AS was_cut,
        iif(:cut_day IS NOT NULL AND state = 'open', in_flight, 0) AS cut
    FROM completeness)
SELECT
    boot_no, started_at, iif(was_cut, 'interrupted', state) AS state, ended_at, admitted,
    completed, incomplete, failed, cancelled, deleted_forget, deleted_retention, lost,
    in_flight - cut AS in_flight, interrupted + cut AS interrupted, not_stored,
    CASE
        WHEN cut THEN (1000000 * (admitted - cut - not_stored - lost) / admitted) / 10000.0
        WHEN NOT :is_copy OR in_flight = 0 THEN percent
    END AS percent,
    unknown_after, unknown_until
FROM known ORDER BY boot_no

-- name: select_ledger_by_day
WITH known AS (
    SELECT *, iif(:cut_day IS NOT NULL, in_flight, 0) AS cut FROM completeness_by_day)
SELECT
    day, admitted, completed, incomplete, failed, cancelled, deleted_forget, deleted_retention,
    lost, in_flight - cut AS in_flight, interrupted + cut AS interrupted, not_stored,
    cuts + ifnull(day = :cut_day, 0) AS cuts,
    CASE
        WHEN cut
        THEN (1000000 * (admitted - interrupted - cut - not_stored - lost) / admitted) / 10000.0
        WHEN NOT :is_copy OR in_flight = 0 THEN percent
    END AS percent
FROM known ORDER BY day

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
