-- The conditions of a selection: what follows WHERE is put together with AND (selection.py). In each
-- `r` is a row of `results`, and `:name` a field of `Selection`.

-- name: wanted_since
SELECT r.seq FROM results AS r WHERE r.created_at >= :since

-- name: wanted_until
SELECT r.seq FROM results AS r WHERE r.created_at < :until

-- name: wanted_model
SELECT r.seq FROM results AS r WHERE coalesce(r.response_model, r.request_model) = :model

-- name: wanted_status
SELECT r.seq FROM results AS r WHERE r.status = :status

-- name: wanted_operation
SELECT r.seq FROM results AS r WHERE r.operation = :operation

-- name: wanted_tenant
SELECT r.seq FROM results AS r WHERE r.tenant = :tenant

-- name: wanted_user
SELECT r.seq FROM results AS r WHERE r.user_id = :user

-- name: wanted_conversation
SELECT r.seq FROM results AS r WHERE r.conversation_id = :conversation

-- name: wanted_batch
SELECT r.seq FROM results AS r WHERE r.batch_id = :batch

-- name: wanted_json_state
SELECT r.seq FROM results AS r WHERE EXISTS (
    SELECT 1 FROM outputs AS o LEFT JOIN repairs AS p ON p.repair_id = (
        SELECT max(n.repair_id) FROM repairs AS n WHERE n.id = r.id AND n.choice_index = o.choice_index)
    WHERE o.seq = r.seq AND coalesce(p.json_state, o.json_state) = :json_state)

-- name: wanted_tokens_min
SELECT r.seq FROM results AS r WHERE coalesce(r.input_tokens, 0) + coalesce(r.output_tokens, 0) >= :tokens_min

-- name: wanted_tokens_max
SELECT r.seq FROM results AS r WHERE coalesce(r.input_tokens, 0) + coalesce(r.output_tokens, 0) <= :tokens_max

-- name: wanted_latency_min_ms
SELECT r.seq FROM results AS r WHERE r.latency_ms >= :latency_min_ms

-- name: wanted_latency_max_ms
SELECT r.seq FROM results AS r WHERE r.latency_ms <= :latency_max_ms

-- name: wanted_pinned
SELECT r.seq FROM results AS r WHERE coalesce((
    SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'pin'
    ORDER BY a.annotation_id DESC LIMIT 1), 'false') NOT IN ('false', 'null') = :pinned
