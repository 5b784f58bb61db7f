-- What a box did, in one row per model, hour, day, tenant or status (stats.py). `:condition` is put in
-- as text: it is a selection's (selection.py). Each reads results by the index that has a model
-- before its hours, so that hours bound what is read; `:models` are all of stats_models, as JSON: a step
-- in the index each, and at last NULL, which is that of what names none.

-- name: stats_models
WITH RECURSIVE models (model) AS (
    SELECT min(coalesce(r.response_model, r.request_model))
    FROM results AS r INDEXED BY results_by_model_and_hour WHERE r.operation <> 'prefix_cache'
    UNION ALL
    SELECT (
        SELECT min(coalesce(r.response_model, r.request_model))
        FROM results AS r INDEXED BY results_by_model_and_hour
        WHERE r.operation <> 'prefix_cache'
            AND coalesce(r.response_model, r.request_model) > m.model)
    FROM models AS m WHERE m.model IS NOT NULL)
SELECT model FROM models

-- name: stats_next_hour
SELECT min((
    SELECT min(r.created_at / 3600000) FROM results AS r INDEXED BY results_by_model_and_hour
    WHERE r.operation <> 'prefix_cache' AND coalesce(r.response_model, r.request_model) IS m.value
        AND r.created_at / 3600000 BETWEEN :hour_first AND :hour_last))
FROM json_each(:models) AS m

-- name: stats_results
SELECT
    CASE :by
        WHEN 'model' THEN coalesce(r.response_model, r.request_model)
        WHEN 'hour' THEN strftime('%Y-%m-%dT%H:00:00Z', r.created_at / 1000, 'unixepoch')
        WHEN 'day' THEN date(r.created_at / 1000, 'unixepoch')
        WHEN 'tenant' THEN r.tenant
        WHEN 'status' THEN r.status
    END AS key,
    r.latency_ms, r.ttft_ms, r.queue_ms,
    r.status = 'completed' AS completed, r.input_tokens, r.output_tokens, r.cached_tokens
FROM json_each(:models) AS m
CROSS JOIN results AS r INDEXED BY results_by_model_and_hour
    ON coalesce(r.response_model, r.request_model) IS m.value
WHERE r.operation <> 'prefix_cache'
    AND r.created_at / 3600000 BETWEEN :hour_first AND :hour_last AND (:condition)

-- name: stats_keys
SELECT
    CASE :by
        WHEN 'model' THEN coalesce(r.response_model, r.request_model)
        WHEN 'hour' THEN strftime('%Y-%m-%dT%H:00:00Z', r.created_at / 1000, 'unixepoch')
        WHEN 'day' THEN date(r.created_at / 1000, 'unixepoch')
        WHEN 'tenant' THEN r.tenant
        WHEN 'status' THEN r.status
    END AS key
FROM json_each(:models) AS m
CROSS JOIN results AS r INDEXED BY results_by_model_and_hour
    ON coalesce(r.response_model, r.request_model) IS m.value
WHERE r.operation <> 'prefix_cache'
    AND r.created_at / 3600000 BETWEEN :hour_first AND :hour_last AND (:condition)

-- name: stats_times
SELECT
    CASE :by
        WHEN 'model' THEN coalesce(r.response_model, r.request_model)
        WHEN 'hour' THEN strftime('%Y-%m-%dT%H:00:00Z', r.created_at / 1000, 'unixepoch')
        WHEN 'day' THEN date(r.created_at / 1000, 'unixepoch')
        WHEN 'tenant' THEN r.tenant
        WHEN 'status' THEN r.status
    END AS key,
    r.latency_ms, r.ttft_ms, r.queue_ms
FROM json_each(:models) AS m
CROSS JOIN results AS r INDEXED BY results_by_model_and_hour
    ON coalesce(r.response_model, r.request_model) IS m.value
WHERE r.operation <> 'prefix_cache'
    AND r.created_at / 3600000 BETWEEN :hour_first AND :hour_last AND (:condition)
    AND (r.latency_ms BETWEEN :latency_ms_low_0 AND :latency_ms_high_0
        OR r.latency_ms BETWEEN :latency_ms_low_1 AND :latency_ms_high_1
        OR r.latency_ms BETWEEN :latency_ms_low_2 AND :latency_ms_high_2
        OR r.ttft_ms BETWEEN :ttft_ms_low_0 AND :ttft_ms_high_0
        OR r.ttft_ms BETWEEN :ttft_ms_low_1 AND :ttft_ms_high_1
        OR r.ttft_ms BETWEEN :ttft_ms_low_2 AND :ttft_ms_high_2
        OR r.queue_ms BETWEEN :queue_ms_low_0 AND :queue_ms_high_0
        OR r.queue_ms BETWEEN :queue_ms_low_1 AND :queue_ms_high_1
        OR r.queue_ms BETWEEN :queue_ms_low_2 AND :queue_ms_high_2)

-- name: stats_json_states
SELECT
    CASE :by
        WHEN 'model' THEN coalesce(r.response_model, r.request_model)
        WHEN 'hour' THEN strftime('%Y-%m-%dT%H:00:00Z', r.created_at / 1000, 'unixepoch')
        WHEN 'day' THEN date(r.created_at / 1000, 'unixepoch')
        WHEN 'tenant' THEN r.tenant
        WHEN 'status' THEN r.status
    END AS key,
    coalesce((
        SELECT n.json_state FROM repairs AS n
        WHERE n.id = r.id AND n.choice_index = o.choice_index
        ORDER BY n.repair_id DESC LIMIT 1), o.json_state) AS json_state
FROM json_each(:models) AS m
CROSS JOIN results AS r INDEXED BY results_by_model_and_hour
    ON coalesce(r.response_model, r.request_model) IS m.value
CROSS JOIN outputs AS o ON o.seq = r.seq
WHERE r.operation <> 'prefix_cache'
    AND r.created_at / 3600000 BETWEEN :hour_first AND :hour_last
    AND (o.json_state <> 'text' OR o.constraint_kind IS NOT NULL) AND (:condition)

-- name: stats_complete
SELECT NULL AS key, sum(admitted), sum(in_flight), sum(interrupted + not_stored + lost)
FROM completeness

-- name: stats_complete_by_day
SELECT day AS key, admitted, in_flight, interrupted + not_stored + lost FROM completeness_by_day
WHERE day >= coalesce(date(:since / 1000, 'unixepoch'), '') AND (
    :until IS NULL OR day <= date((:until - 1) / 1000, 'unixepoch'))

-- name: stats_bytes_by_day
SELECT
    date(r.created_at / 1000, 'unixepoch') AS day, count(*) AS requests,
    sum(w.bytes) AS bytes,
    sum(w.bytes) FILTER (WHERE r.created_at >= :recent) AS recent,
    min(r.created_at) AS first_at
FROM results AS r JOIN (
    SELECT s.seq, :row_bytes
        + coalesce(octet_length(q.input_text), 0)
        + coalesce(length(q.request_body) + length(q.response_body), 0)
        + coalesce((SELECT sum(octet_length(o.output_text) + coalesce(octet_length(o.reasoning), 0)
            + coalesce(octet_length(o.tool_calls), 0) + coalesce(octet_length(o.output_json), 0))
            FROM outputs AS o WHERE o.seq = s.seq), 0) AS bytes
    FROM results AS s LEFT JOIN requests AS q ON q.seq = s.seq
    WHERE s.seq > :after AND s.seq <= :upto) AS w ON w.seq = r.seq
GROUP BY 1 ORDER BY 1

-- name: stats_file_bytes
SELECT
    (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size) AS file,
    (SELECT freelist_count FROM pragma_freelist_count)
        * (SELECT page_size FROM pragma_page_size) AS free

-- name: stats_recent_deletions
SELECT count(*) FROM deletions WHERE reason = 'retention' AND at >= :recent
