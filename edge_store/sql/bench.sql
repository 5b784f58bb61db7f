-- What `edge-store bench query` asks, as a person or a program would.

-- name: bench_newest
SELECT * FROM generations ORDER BY seq DESC LIMIT 50

-- name: bench_by_id
SELECT * FROM generations WHERE id = (SELECT id FROM results WHERE seq = :seq)

-- name: bench_model_and_time
SELECT * FROM generations
WHERE model = :model AND hour BETWEEN unixepoch(:since) / 3600 AND unixepoch(:until) / 3600
    AND created_at BETWEEN :since AND :until

-- name: bench_usage_by_hour
SELECT * FROM usage_by_hour

-- name: bench_usage_by_day
SELECT * FROM usage_by_day

-- name: bench_models
WITH RECURSIVE found (model) AS (
    SELECT min(coalesce(response_model, request_model)) FROM results
    WHERE operation <> 'prefix_cache'
    UNION ALL
    SELECT (SELECT min(coalesce(response_model, request_model)) FROM results
            WHERE coalesce(response_model, request_model) > found.model
                AND operation <> 'prefix_cache')
    FROM found WHERE found.model IS NOT NULL)
SELECT model FROM found WHERE model IS NOT NULL

-- name: bench_p95
SELECT latency_ms FROM results
WHERE coalesce(response_model, request_model) = :model AND operation <> 'prefix_cache'
ORDER BY latency_ms DESC LIMIT 1 OFFSET (
    SELECT count(*) / 20 FROM results
    WHERE coalesce(response_model, request_model) = :model AND operation <> 'prefix_cache')

-- name: bench_json
SELECT seq, output_text FROM outputs WHERE json_extract(output_json, '$.customer.id') = :value

-- name: bench_drop_index
DROP INDEX results_by_model_and_hour

-- name: bench_drop_stored
DROP INDEX results_stored

-- name: bench_deleted
SELECT count(*) FROM deletions WHERE what = 'result' AND reason = 'retention'

-- name: bench_text_bytes
SELECT (SELECT sum(octet_length(input_text)) FROM requests)
    + (SELECT sum(octet_length(output_text)) FROM outputs)
-- name: bench_nothing
SELECT 1 AS one

-- name: bench_narrow
SELECT seq, status, created_at, latency_ms, input_tokens FROM results

-- name: bench_texts
SELECT seq, id, created_at, model, input_text, output_text FROM generations

-- name: bench_id
SELECT * FROM generations WHERE id = :id

-- name: bench_id_between
SELECT id FROM results WHERE seq > :after AND seq <= :upto

-- name: bench_counted
SELECT status, count(*) FROM generations GROUP BY status
