-- What `edge-store logs` reads. `:condition` is put in as text: it is a selection's (selection.py).

-- name: log_next_model
SELECT min(coalesce(r.response_model, r.request_model))
FROM results AS r INDEXED BY results_by_model_and_hour
WHERE r.operation <> 'prefix_cache' AND coalesce(r.response_model, r.request_model) > :model

-- name: log_last_of_model
SELECT r.created_at FROM results AS r INDEXED BY results_by_model_and_hour
WHERE r.operation <> 'prefix_cache' AND coalesce(r.response_model, r.request_model) IS :model
ORDER BY r.created_at / 3600000 DESC, r.created_at DESC LIMIT 1

-- name: log_first_of_model
SELECT r.created_at FROM results AS r INDEXED BY results_by_model_and_hour
WHERE r.operation <> 'prefix_cache' AND coalesce(r.response_model, r.request_model) IS :model
ORDER BY r.created_at / 3600000, r.created_at LIMIT 1

-- name: log_within_hour
SELECT r.seq FROM json_each(:models) AS m
CROSS JOIN results AS r INDEXED BY results_by_model_and_hour
    ON coalesce(r.response_model, r.request_model) IS m.value
WHERE r.operation <> 'prefix_cache' AND r.created_at / 3600000 = :hour
    AND r.created_at >= :window_from AND r.created_at < :window_to AND (:condition)
ORDER BY r.created_at DESC, r.seq DESC LIMIT :left

-- name: log_within_hours
SELECT r.seq FROM json_each(:models) AS m
CROSS JOIN results AS r INDEXED BY results_by_model_and_hour
    ON coalesce(r.response_model, r.request_model) IS m.value
WHERE r.operation <> 'prefix_cache' AND r.created_at / 3600000 BETWEEN :hour AND :hour_last
    AND r.created_at >= :window_from AND r.created_at < :window_to AND (:condition)
ORDER BY r.created_at DESC, r.seq DESC LIMIT :left

-- name: log_without_output
SELECT r.seq FROM results AS r WHERE (:condition) ORDER BY r.seq DESC LIMIT :left

-- name: log_lines
SELECT
    r.seq, r.id, r.timeline,
    strftime('%Y-%m-%dT%H:%M:%fZ', r.created_at / 1000.0, 'unixepoch') AS created_at,
    coalesce(r.response_model, r.request_model) AS model, r.operation, r.status,
    r.input_tokens, r.output_tokens, r.latency_ms, r.ttft_ms, r.finish_reason,
    (SELECT coalesce(p.json_state, o.json_state) FROM outputs AS o LEFT JOIN repairs AS p
        ON p.repair_id = (SELECT max(n.repair_id) FROM repairs AS n
                          WHERE n.id = r.id AND n.choice_index = 0)
     WHERE o.seq = r.seq AND o.choice_index = 0) AS json_state,
    r.tenant, r.user_id, r.error_type,
    coalesce((SELECT a.value FROM annotations AS a WHERE a.id = r.id AND a.kind = 'pin'
              ORDER BY a.annotation_id DESC LIMIT 1), 'false') NOT IN ('false', 'null') AS pinned,
    -- bytes: of a text, substr() ends at the first NUL; of an empty BLOB it is NULL
    CAST(coalesce(substr(CAST(q.input_text AS BLOB), 1, :bytes), q.input_text) AS BLOB) AS prompt,
    substr(CAST(q.input_text AS BLOB), -:tail) AS prompt_end,
    (SELECT substr(
        CAST(coalesce(nullif(o.output_text, ''), o.tool_calls, o.reasoning) AS BLOB), 1, :bytes)
     FROM outputs AS o WHERE o.seq = r.seq AND o.choice_index = 0) AS answer
FROM results AS r LEFT JOIN requests AS q ON q.seq = r.seq
WHERE r.seq IN (SELECT value FROM json_each(:seqs))

-- name: log_ids_from
SELECT id FROM results WHERE id >= :first AND id < :end ORDER BY id LIMIT 2

-- name: log_archived_from
SELECT DISTINCT d.id FROM deletions AS d JOIN archived AS a ON a.deletion_id = d.deletion_id
WHERE d.id >= :first AND d.id < :end AND d.what = 'result' AND NOT EXISTS (
    SELECT 1 FROM deletions AS f WHERE f.id = d.id AND f.what = d.what AND f.reason = 'forget')
ORDER BY d.id LIMIT 2

-- name: log_noted_from
SELECT id FROM (
    SELECT id FROM (SELECT id FROM results WHERE id >= :first AND id < :end ORDER BY id LIMIT 2)
    UNION
    SELECT id FROM (SELECT DISTINCT id FROM deletions WHERE id >= :first AND id < :end
                    ORDER BY id LIMIT 2)
    UNION
    SELECT id FROM losses WHERE id >= :first AND id < :end)
ORDER BY id LIMIT 2

-- name: log_neighbours
SELECT (SELECT max(id) FROM results WHERE id < :id), (SELECT min(id) FROM results WHERE id > :id),
    (SELECT max(id) FROM deletions WHERE id < :id), (SELECT min(id) FROM deletions WHERE id > :id)

-- name: log_after
SELECT r.seq FROM results AS r
WHERE r.seq > :after AND r.seq <= :upto AND (r.operation = 'prefix_cache') = :is_without_output
    AND (:condition)
ORDER BY r.seq

-- name: log_head
SELECT
    (SELECT coalesce(max(seq), 0) FROM results) AS seq,
    (SELECT timeline FROM timelines ORDER BY timeline_no DESC LIMIT 1) AS timeline

-- name: log_branch
SELECT k.timeline_no,
    (SELECT b.after_seq FROM boots AS b JOIN timelines AS t ON t.timeline = b.timeline
     WHERE b.event = 'start' AND t.timeline_no > k.timeline_no ORDER BY b.boot_no LIMIT 1)
FROM timelines AS k WHERE k.timeline = :timeline

-- name: log_pin_of
SELECT a.value FROM annotations AS a WHERE a.id = :id AND a.kind = 'pin'
ORDER BY a.annotation_id DESC LIMIT 1

-- name: insert_pin
INSERT INTO annotations (at, id, kind, value) VALUES (:at, :id, 'pin', :value)

-- name: log_repairs
SELECT p.choice_index, p.output_json, p.json_state, p.schema_valid, p.schema_error, p.repair_log,
    p.repairer
FROM repairs AS p WHERE p.id = :id ORDER BY p.repair_id
