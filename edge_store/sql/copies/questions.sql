-- `fleet stats` over the copies. Percentiles are by nearest rank: the smallest value that so many of
-- a hundred do not exceed.

-- name: stats_use
WITH keyed AS (
    SELECT
        CASE :by
            WHEN 'device' THEN device_id
            WHEN 'model' THEN coalesce(response_model, request_model)
            WHEN 'tenant' THEN tenant
            WHEN 'day' THEN date(created_at / 1000, 'unixepoch')
        END AS key,
        status, input_tokens, output_tokens, latency_ms, ttft_ms
    FROM results WHERE operation <> 'prefix_cache' AND created_at >= :since),
used AS (
    SELECT
        key, count(*) AS requests,
        count(*) FILTER (WHERE status = 'completed') AS completed,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
    FROM keyed GROUP BY key),
latency AS (
    SELECT
        key,
        max(latency_ms) FILTER (WHERE 100 * n >= 50 * c AND 100 * (n - 1) < 50 * c) AS p50,
        max(latency_ms) FILTER (WHERE 100 * n >= 95 * c AND 100 * (n - 1) < 95 * c) AS p95,
        max(latency_ms) FILTER (WHERE 100 * n >= 99 * c AND 100 * (n - 1) < 99 * c) AS p99
    FROM (
        SELECT
            key, latency_ms, row_number() OVER (PARTITION BY key ORDER BY latency_ms) AS n,
            count(*) OVER (PARTITION BY key) AS c
        FROM keyed)
    GROUP BY key),
ttft AS (
    SELECT
        key,
        max(ttft_ms) FILTER (WHERE 100 * n >= 50 * c AND 100 * (n - 1) < 50 * c) AS p50,
        max(ttft_ms) FILTER (WHERE 100 * n >= 95 * c AND 100 * (n - 1) < 95 * c) AS p95,
        max(ttft_ms) FILTER (WHERE 100 * n >= 99 * c AND 100 * (n - 1) < 99 * c) AS p99
    FROM (
        SELECT
            key, ttft_ms, row_number() OVER (PARTITION BY key ORDER BY ttft_ms) AS n,
            count(*) OVER (PARTITION BY key) AS c
        FROM keyed WHERE ttft_ms IS NOT NULL)
    GROUP BY key)
SELECT
    u.key, u.requests, u.completed, u.input_tokens, u.output_tokens,
    l.p50 AS latency_ms_p50, l.p95 AS latency_ms_p95, l.p99 AS latency_ms_p99,
    t.p50 AS ttft_ms_p50, t.p95 AS ttft_ms_p95, t.p99 AS ttft_ms_p99
FROM used AS u
LEFT JOIN latency AS l ON l.key IS u.key
LEFT JOIN ttft AS t ON t.key IS u.key
ORDER BY u.key

-- name: stats_json
SELECT
    CASE :by
        WHEN 'device' THEN device_id WHEN 'model' THEN model WHEN 'tenant' THEN tenant
        WHEN 'day' THEN day
    END AS key,
    count(*) AS json_asked,
    count(*) FILTER (WHERE json_state = 'valid') AS json_valid,
    count(*) FILTER (WHERE json_state IN ('extracted', 'repaired')) AS json_repaired
FROM structured WHERE json_state <> 'text' AND created_at >= :since
GROUP BY 1

-- name: stats_completeness
SELECT
    CASE :by WHEN 'device' THEN device_id END AS key,
    sum(admitted) AS admitted, sum(in_flight) AS in_flight,
    sum(interrupted + not_stored + lost) AS missing
FROM completeness GROUP BY 1

-- name: stats_completeness_of_days
SELECT
    day AS key, sum(admitted) AS admitted, sum(in_flight) AS in_flight,
    sum(interrupted + not_stored + lost) AS missing
FROM completeness_by_day
WHERE day >= date(:since / 1000, 'unixepoch') AND :by = 'day'
GROUP BY 1
