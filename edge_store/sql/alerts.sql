-- What alarms are judged by.

-- name: select_oldest_queued
SELECT min(at) FROM (
    SELECT min(r.created_at) AS at FROM queued_requests AS r
    WHERE NOT EXISTS (
        SELECT 1 FROM line_marks AS m
        WHERE m.batch_id = r.id AND m.custom_id IS NULL AND m.mark = 'refused')
    UNION ALL
    SELECT min(b.created_at) FROM batches AS b
    WHERE (SELECT e.event FROM batch_events AS e WHERE e.batch_id = b.batch_id
           ORDER BY e.event_no DESC LIMIT 1)
        NOT IN ('failed', 'completed', 'expired', 'cancelled'))

-- name: count_outcomes
SELECT count(*), coalesce(sum(
    status = 'failed' AND coalesce(http_status, 500) NOT BETWEEN 400 AND 499), 0)
FROM results WHERE seq > :after AND seq <= :upto

-- name: select_missing
WITH newest AS (
    SELECT s.boot_no, s.boot_id,
        (SELECT e.at FROM boots AS e WHERE e.boot_id = s.boot_id AND e.event = 'end') AS ended_at,
        (SELECT n.at FROM boots AS n WHERE n.boot_no > s.boot_no AND n.event = 'start'
         ORDER BY n.boot_no LIMIT 1) AS next_at
    FROM boots AS s WHERE s.event = 'start' ORDER BY s.boot_no DESC LIMIT :limit),
counted AS (
    SELECT boot_no,
        coalesce((SELECT max(admitted_upto) FROM commits AS c WHERE c.boot_id = n.boot_id), 0)
            AS admitted,
        (SELECT count(*) FROM results AS r WHERE r.boot_id = n.boot_id)
            + (SELECT count(DISTINCT d.boot_seq) FROM deletions AS d
               WHERE d.boot_id = n.boot_id AND d.what = 'result') AS known
    FROM newest AS n
    WHERE next_at IS NOT NULL AND coalesce(ended_at, next_at) >= :since)
SELECT boot_no, admitted, admitted - known AS missing FROM counted
WHERE admitted > known ORDER BY boot_no DESC
