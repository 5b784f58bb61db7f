-- `fleet stats` and `fleet search` over a lake, in DuckDB: see copies/questions.sql and fleet.sql.

-- name: stats_use
SELECT
    CASE $by
        WHEN 'device' THEN device_id
        WHEN 'model' THEN coalesce(response_model, request_model)
        WHEN 'tenant' THEN tenant
        WHEN 'day' THEN strftime(date, '%Y-%m-%d')
    END AS key,
    count(*) AS requests,
    count(*) FILTER (WHERE status = 'completed') AS completed,
    sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
    quantile_disc(latency_ms, 0.50) AS latency_ms_p50,
    quantile_disc(latency_ms, 0.95) AS latency_ms_p95,
    quantile_disc(latency_ms, 0.99) AS latency_ms_p99,
    quantile_disc(ttft_ms, 0.50) AS ttft_ms_p50,
    quantile_disc(ttft_ms, 0.95) AS ttft_ms_p95,
    quantile_disc(ttft_ms, 0.99) AS ttft_ms_p99
FROM results
WHERE operation <> 'prefix_cache' AND created_at >= $since
AND date >= CAST(make_timestamp($since * 1000) AS DATE)
GROUP BY 1 ORDER BY 1 NULLS FIRST

-- name: stats_json
SELECT
    CASE $by
        WHEN 'device' THEN device_id WHEN 'model' THEN model WHEN 'tenant' THEN tenant
        WHEN 'day' THEN day
    END AS key,
    count(*) AS json_asked,
    count(*) FILTER (WHERE json_state = 'valid') AS json_valid,
    count(*) FILTER (WHERE json_state IN ('extracted', 'repaired')) AS json_repaired
FROM structured WHERE json_state <> 'text' AND created_at >= $since
GROUP BY 1

-- name: search
SELECT
    created_at, device_id, id, model, status,
    CASE WHEN contains(lower(coalesce(output_text, '')), $text) THEN 'output' ELSE 'input' END AS place,
    CASE
        WHEN contains(lower(coalesce(output_text, '')), $text)
        THEN substr(output_text, greatest(1, instr(lower(output_text), $text) - $before), $length)
        ELSE substr(input_text, greatest(1, instr(lower(input_text), $text) - $before), $length)
    END AS snippet
FROM generations
WHERE (contains(lower(output_text), $text) OR contains(lower(input_text), $text))
AND hour >= $since // 3600000 AND created_at >= $since_text
AND date >= CAST(make_timestamp($since * 1000) AS DATE)
AND ($model IS NULL OR model = $model) AND ($device IS NULL OR device_id = $device)
ORDER BY created_at DESC, device_id, id LIMIT $limit

-- name: search_outputs
SELECT
    created_at, device_id, id, model, status, 'output' AS place,
    substr(output_text, greatest(1, instr(lower(output_text), $text) - $before), $length) AS snippet
FROM generations
WHERE contains(lower(output_text), $text)
AND hour >= $since // 3600000 AND created_at >= $since_text
AND date >= CAST(make_timestamp($since * 1000) AS DATE)
AND ($model IS NULL OR model = $model) AND ($device IS NULL OR device_id = $device)
ORDER BY created_at DESC, device_id, id LIMIT $limit
