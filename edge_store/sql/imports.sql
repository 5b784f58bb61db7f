-- Results that were made elsewhere.

-- name: select_import_known
SELECT
    EXISTS (SELECT 1 FROM results WHERE id = :id),
    EXISTS (SELECT 1 FROM deletions WHERE id = :id AND what = 'result'),
    EXISTS (SELECT 1 FROM results WHERE batch_id = :batch_id AND custom_id IS :custom_id
            AND status = 'completed')

-- name: insert_import_annotation
-- Not behind a newer one, and not twice.
INSERT INTO annotations (at, id, kind, value)
SELECT :at, :id, :kind, :value
WHERE :kind IN ('metadata', 'pin') AND json_valid(:value) AND NOT EXISTS (
    SELECT 1 FROM annotations AS a WHERE a.id = :id AND a.kind = :kind
        AND (a.at > :at OR (a.at = :at AND a.value = :value)))

-- name: insert_import_repair
INSERT INTO repairs (
    at, id, choice_index, output_json, json_state, schema_valid, schema_error, repair_log, repairer)
SELECT :at, :id, :choice_index, :output_json, :json_state, :schema_valid, :schema_error,
    :repair_log, :repairer
WHERE (:output_json IS NULL OR json_valid(:output_json)) AND NOT EXISTS (
    SELECT 1 FROM repairs AS p WHERE p.id = :id AND p.choice_index = :choice_index
        AND (p.at > :at OR (p.at = :at AND p.repairer = :repairer)))

-- name: select_import_table
SELECT * FROM "sglang_inference_results"

-- name: count_import_table
SELECT count(*) FROM "sglang_inference_results"
