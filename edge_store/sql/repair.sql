-- Structured output: reports on it, and repairs that are applied again.

-- name: count_repairable
SELECT count(*) FROM structured
WHERE json_state IN ('repaired', 'invalid') AND repairer IS NOT :repairer AND created_at >= :since

-- name: select_repairable
SELECT seq, id, choice_index, json_state FROM structured
WHERE (seq, choice_index) > (:seq, :choice) AND seq >= :seq
    AND json_state IN ('repaired', 'invalid') AND repairer IS NOT :repairer AND created_at >= :since
ORDER BY seq, choice_index LIMIT :limit

-- name: insert_repair
INSERT INTO repairs (
    at, id, choice_index, output_json, json_state, schema_valid, schema_error, repair_log, repairer
)
SELECT :at, :id, :choice_index, :output_json, :json_state, :schema_valid, :schema_error,
    :repair_log, :repairer
WHERE EXISTS (SELECT 1 FROM results WHERE id = :id)

-- name: select_repair_states
SELECT
    day, model, count(*) AS choices,
    count(*) FILTER (WHERE json_state = 'valid') AS valid,
    count(*) FILTER (WHERE json_state = 'extracted') AS extracted,
    count(*) FILTER (WHERE json_state = 'repaired') AS repaired,
    count(*) FILTER (WHERE json_state = 'truncated') AS truncated,
    count(*) FILTER (WHERE json_state = 'invalid') AS invalid,
    count(*) FILTER (WHERE schema_valid = 0) AS schema_not_valid,
    count(*) FILTER (WHERE constraint_holds = 0) AS constraint_broken,
    count(*) FILTER (WHERE constraint_kind IS NOT NULL AND constraint_holds IS NULL)
        AS constraint_not_checked
FROM structured
GROUP BY day, model ORDER BY day DESC, model

-- name: select_repair_errors
SELECT kind, error, count(*) AS choices, max(id) AS example FROM (
    SELECT id, 'schema' AS kind, substr(schema_error, 1, 160) AS error
    FROM structured WHERE schema_error IS NOT NULL
    UNION ALL
    SELECT id, 'invalid', substr(repair_log, 1, 160)
    FROM structured WHERE json_state = 'invalid' AND repair_log IS NOT NULL
    UNION ALL
    SELECT id, 'constraint', substr(constraint_error, 1, 160)
    FROM structured WHERE constraint_error IS NOT NULL)
GROUP BY kind, error ORDER BY choices DESC, kind, error LIMIT 20
