-- What a copy has for the lake. A column that an older box lacks is read as NULL: see fleet/lake.

-- name: select_lake_results
SELECT
    r.device_id, r.timeline, r.seq, r.id, r.boot_id, r.boot_seq, r.operation, r.endpoint, r.status,
    r.request_model, r.response_model, r.engine, r.engine_version, r.params, r.created_at,
    r.first_token_at, r.completed_at, r.clock_synced, r.latency_ms, r.ttft_ms, r.queue_ms,
    r.input_tokens, r.output_tokens, r.cached_tokens, r.reasoning_tokens, r.finish_reason, r.stream,
    r.conversation_id, r.previous_id, r.batch_id, r.custom_id, r.tenant, r.user_id, r.metadata,
    r.caller_rid, r.response_id, r.idempotency_key_hash, r.request_fingerprint, r.trace_id,
    r.http_status, r.error_type, r.error_message, r.privacy, r.digest
FROM results AS r
WHERE r.seq > :after AND r.seq <= :upto ORDER BY r.seq

-- name: select_lake_outputs
SELECT
    r.device_id, r.timeline, r.seq, r.id, r.created_at,
    o.choice_index, o.output_text, o.reasoning, o.tool_calls, o.finish_reason, o.output_json,
    o.json_state, o.schema_valid, o.schema_error, o.repair_log, o.repairer, o.constraint_kind,
    o.constraint_holds, o.constraint_error
FROM results AS r JOIN outputs AS o ON o.seq = r.seq
WHERE r.seq > :after AND r.seq <= :upto ORDER BY r.seq, o.choice_index

-- name: select_lake_requests
SELECT
    r.device_id, r.timeline, r.seq, r.id, r.created_at,
    q.input_text, q.request_body, q.response_body
FROM results AS r JOIN bodies AS q ON q.seq = r.seq
WHERE r.seq > :after AND r.seq <= :upto ORDER BY r.seq

-- name: select_lake_timelines
SELECT timeline FROM timelines ORDER BY timeline_no

-- name: select_lake_step
SELECT seq, timeline, digest FROM results
WHERE seq > :after AND seq < (SELECT min(seq) FROM results WHERE seq > :after) + :results
AND timeline = (SELECT timeline FROM results WHERE seq > :after ORDER BY seq LIMIT 1)
ORDER BY seq DESC LIMIT 1

-- name: select_lake_digest
SELECT digest FROM results WHERE seq = :seq
UNION ALL
SELECT digest FROM deletions WHERE seq = :seq AND what = 'result'

-- name: select_lake_tombstones
SELECT deletion_id, id, at FROM deletions
WHERE deletion_id > :after AND reason = 'forget' AND what = 'result' ORDER BY deletion_id

-- name: select_lake_deletion
SELECT id, at FROM deletions WHERE deletion_id = :number

-- name: select_lake_forgotten
SELECT forgotten_no, id, at FROM forgotten
WHERE forgotten_no > :after AND what <> 'lines' ORDER BY forgotten_no

-- name: select_lake_forgotten_one
SELECT id, at FROM forgotten WHERE forgotten_no = :number

-- name: select_lake_retired
SELECT deletion_id, id, at FROM deletions
WHERE reason = 'retention' AND (what = 'result' OR :content) ORDER BY deletion_id DESC LIMIT 1
