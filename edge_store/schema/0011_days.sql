-- The days of completeness are counted by an index that is in the order of what is grouped. SQLite
-- sorts in memory where it is built so: of ten million results it had taken 650 MB.

DROP VIEW completeness_by_day;

CREATE VIEW completeness_by_day AS -- Per UTC day of admission: the same; what has no row counts on the day of its boot's last mark.
WITH
parts (
    day, completed, incomplete, failed, cancelled, deleted_forget, deleted_retention, archived,
    lost, in_flight, interrupted, not_stored, cuts
) AS (
    -- by the index, whose order is that of the groups: to group by day would sort all results
    SELECT
        date(hour * 3600, 'unixepoch') AS day, completed, incomplete, failed, cancelled,
        0, 0, 0, 0, 0, 0, 0, 0
    FROM (
        SELECT
            created_at / 3600000 AS hour,
            count(*) FILTER (WHERE status = 'completed') AS completed,
            count(*) FILTER (WHERE status = 'incomplete') AS incomplete,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM results WHERE operation <> 'prefix_cache'
        GROUP BY coalesce(response_model, request_model), created_at / 3600000)
    UNION ALL
    SELECT
        date(created_at / 1000, 'unixepoch') AS day,
        count(*) FILTER (WHERE status = 'completed'),
        count(*) FILTER (WHERE status = 'incomplete'),
        count(*) FILTER (WHERE status = 'failed'),
        count(*) FILTER (WHERE status = 'cancelled'),
        0, 0, 0, 0, 0, 0, 0, 0
    FROM results WHERE operation = 'prefix_cache' GROUP BY day
    UNION ALL
    SELECT
        date(created_at / 1000, 'unixepoch') AS day,
        0, 0, 0, 0,
        count(*) FILTER (WHERE reason = 'forget'),
        count(*) FILTER (WHERE reason = 'retention'),
        count(*) FILTER (WHERE reason = 'retention' AND is_archived),
        0, 0, 0, 0, 0
    FROM (
        SELECT created_at, min(reason) AS reason, count(a.archive_no) > 0 AS is_archived
        FROM deletions AS d LEFT JOIN archived AS a USING (deletion_id) WHERE what = 'result'
        GROUP BY boot_id, boot_seq)
    GROUP BY day
    UNION ALL
    SELECT date(at / 1000, 'unixepoch') AS day, 0, 0, 0, 0, 0, 0, 0, count(*), 0, 0, 0, 0
    FROM losses GROUP BY day
    UNION ALL
    SELECT
        date(coalesce(last_mark_at, started_at)) AS day, 0, 0, 0, 0, 0, 0, 0, 0,
        sum(in_flight), sum(interrupted), sum(not_stored),
        count(*) FILTER (WHERE state = 'interrupted')
    FROM completeness GROUP BY day),
summed AS (
    SELECT
        day,
        sum(completed) AS completed, sum(incomplete) AS incomplete,
        sum(failed) AS failed, sum(cancelled) AS cancelled,
        sum(deleted_forget) AS deleted_forget, sum(deleted_retention) AS deleted_retention,
        sum(archived) AS archived,
        sum(lost) AS lost, sum(in_flight) AS in_flight,
        sum(interrupted) AS interrupted, sum(not_stored) AS not_stored, sum(cuts) AS cuts
    FROM parts GROUP BY day),
named AS (
    SELECT *,
        completed + incomplete + failed + cancelled + deleted_forget + deleted_retention + lost
            + in_flight + interrupted + not_stored AS admitted
    FROM summed)
SELECT
    day, admitted, completed, incomplete, failed, cancelled,
    deleted_forget + deleted_retention AS deleted, deleted_forget, deleted_retention, archived,
    lost, in_flight, interrupted, not_stored, cuts,
    CASE WHEN admitted > in_flight
         THEN (1000000 * (admitted - in_flight - interrupted - not_stored - lost)
               / (admitted - in_flight)) / 10000.0
         ELSE 100.0 END AS percent
FROM named;
