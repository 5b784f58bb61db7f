-- What `fleet query` sees of a lake, in DuckDB. `base_…`: a table of the lake with the rows that only
-- copies have. `late_…`: what was said of a result later, which copies have and a lake does not.

-- name: drop_known
DELETE FROM {tail} AS t WHERE t.device_id = $device_id
AND EXISTS (SELECT 1 FROM {lake} AS s WHERE s.device_id = $device_id AND {same})

-- name: without_forgotten
SELECT * FROM ({rows}) AS r
WHERE NOT EXISTS (SELECT 1 FROM forgotten AS f WHERE f.device_id = r.device_id AND f.id = r.id)

-- name: first_outputs
SELECT
    device_id, id, seq, output_text, reasoning, tool_calls, output_json, json_state, schema_valid,
    schema_error, constraint_holds
FROM base_outputs WHERE choice_index = 0

-- name: output_counts
SELECT device_id, id, seq, count(*) AS choices FROM base_outputs GROUP BY device_id, id, seq

-- name: input_texts
SELECT device_id, id, seq, input_text FROM base_requests

-- name: generations
SELECT
    r.seq, r.id, r.device_id, r.boot_id, r.boot_seq, r.operation, r.endpoint, r.status,
    coalesce(r.response_model, r.request_model) AS model, r.created_at // 3600000 AS hour,
    r.request_model, r.response_model, r.engine, r.engine_version,
    q.input_text,
    o.output_text, o.reasoning, o.tool_calls,
    CASE WHEN p.repairer IS NULL THEN o.output_json ELSE p.output_json END AS output_json,
    coalesce(p.json_state, o.json_state) AS json_state,
    CASE WHEN p.repairer IS NULL THEN o.schema_valid ELSE p.schema_valid END AS schema_valid,
    CASE WHEN p.repairer IS NULL THEN o.schema_error ELSE p.schema_error END AS schema_error,
    o.constraint_holds,
    coalesce(c.choices, 0) AS choices,
    r.finish_reason, r.stream, r.params,
    r.input_tokens, r.output_tokens, r.cached_tokens, r.reasoning_tokens,
    r.latency_ms, r.ttft_ms, r.queue_ms,
    strftime(make_timestamp(r.created_at * 1000), '%Y-%m-%dT%H:%M:%S.%gZ') AS created_at,
    strftime(make_timestamp(r.completed_at * 1000), '%Y-%m-%dT%H:%M:%S.%gZ') AS completed_at,
    r.tenant, r.user_id,
    coalesce(a.value, r.metadata) AS metadata,
    r.caller_rid, r.trace_id, r.http_status, r.error_type, r.error_message,
    r.timeline, r.date
FROM base_results AS r
LEFT JOIN first_outputs AS o ON o.device_id = r.device_id AND o.id = r.id AND o.seq = r.seq
LEFT JOIN output_counts AS c ON c.device_id = r.device_id AND c.id = r.id AND c.seq = r.seq
LEFT JOIN input_texts AS q ON q.device_id = r.device_id AND q.id = r.id AND q.seq = r.seq
LEFT JOIN late_repairs AS p ON p.device_id = r.device_id AND p.id = r.id AND p.choice_index = 0
LEFT JOIN late_metadata AS a ON a.device_id = r.device_id AND a.id = r.id
WHERE r.operation <> 'prefix_cache'

-- name: structured
SELECT
    r.device_id, r.seq, r.id, o.choice_index,
    coalesce(r.response_model, r.request_model) AS model,
    strftime(r.date, '%Y-%m-%d') AS day, r.created_at, r.endpoint, r.tenant,
    coalesce(p.json_state, o.json_state) AS json_state,
    CASE WHEN p.repairer IS NULL THEN o.output_json ELSE p.output_json END AS output_json,
    CASE WHEN p.repairer IS NULL THEN o.schema_valid ELSE p.schema_valid END AS schema_valid,
    CASE WHEN p.repairer IS NULL THEN o.schema_error ELSE p.schema_error END AS schema_error,
    CASE WHEN p.repairer IS NULL THEN o.repair_log ELSE p.repair_log END AS repair_log,
    coalesce(p.repairer, o.repairer) AS repairer,
    o.constraint_kind, o.constraint_holds, o.constraint_error,
    o.json_state AS recorded_json_state, o.repairer AS recorded_repairer
FROM base_outputs AS o
JOIN base_results AS r ON r.device_id = o.device_id AND r.id = o.id AND r.seq = o.seq
LEFT JOIN late_repairs AS p
    ON p.device_id = o.device_id AND p.id = o.id AND p.choice_index = o.choice_index
WHERE o.json_state <> 'text' OR o.constraint_kind IS NOT NULL
