-- A box's copy beside the scratch database of a fleet query.

-- name: select_relations
SELECT name, type, sql FROM sqlite_schema
WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY rowid

-- name: select_temp_views
SELECT name, sql FROM sqlite_temp_schema WHERE type = 'view'

-- name: select_columns
SELECT name, type, dflt_value FROM pragma_table_info(:relation, :database) ORDER BY cid

-- name: select_functions
SELECT DISTINCT name FROM pragma_function_list ORDER BY name

-- name: attach_box
ATTACH DATABASE :source AS box

-- name: detach_box
DETACH DATABASE box

-- name: savepoint_box
SAVEPOINT one_box

-- name: rollback_box
ROLLBACK TO one_box

-- name: release_box
RELEASE one_box

-- name: select_late_metadata
SELECT id, value FROM annotations
WHERE annotation_id IN (
    SELECT max(annotation_id) FROM annotations WHERE kind = 'metadata' GROUP BY id)

-- name: select_late_repairs
SELECT
    id, choice_index, output_json, json_state, schema_valid, schema_error, repair_log, repairer
FROM repairs
WHERE repair_id IN (SELECT max(repair_id) FROM repairs GROUP BY id, choice_index)

-- How a box is, by its copy.

-- name: select_copy_health
WITH drilled AS (
    SELECT at, seq_to FROM drills WHERE passed = 1 AND failure IS NULL
    ORDER BY drill_id DESC LIMIT 1),
newest AS (SELECT passed, failure FROM drills ORDER BY drill_id DESC LIMIT 1)
SELECT
    (SELECT at FROM boots ORDER BY boot_no LIMIT 1),
    (SELECT at FROM drilled), (SELECT seq_to FROM drilled),
    (SELECT passed FROM newest), (SELECT failure FROM newest),
    (SELECT clock_synced FROM boots ORDER BY boot_no DESC LIMIT 1)

-- name: select_copy_gaps
SELECT
    1000 * unixepoch(coalesce(last_mark_at, started_at)) AS at,
    interrupted + not_stored + lost AS missing
FROM completeness WHERE missing > 0 ORDER BY boot_no DESC LIMIT :limit

-- name: search_box
WITH found AS (
    SELECT
        created_at, device_id, id, model, status,
        iif(instr(lower(output_text), :text), 'output', 'input') AS place,
        CAST(iif(instr(lower(output_text), :text), output_text, input_text) AS BLOB) AS whole
    FROM generations
    WHERE (instr(lower(output_text), :text) OR instr(lower(input_text), :text))
    AND hour >= :since / 3600000 AND created_at >= :since_text
    AND (:model IS NULL OR model = :model)
    ORDER BY created_at DESC, device_id, id LIMIT :limit),
placed AS ( -- by bytes, as substr() would end a text at its first NUL; lower() moves none
    SELECT *, instr(CAST(lower(CAST(whole AS TEXT)) AS BLOB), CAST(:text AS BLOB)) AS at FROM found)
SELECT
    created_at, device_id, id, model, status, place,
    substr(whole, max(1, at - :bytes), min(at - 1, :bytes)) AS head,
    substr(whole, at, :bytes) AS tail
FROM placed ORDER BY created_at DESC, device_id, id

-- What a box's retention has deleted between two copies of it.

-- name: select_newest_deletion
SELECT deletion_id, at, id FROM deletions ORDER BY deletion_id DESC LIMIT 1

-- name: select_same_deletion
SELECT 1 FROM deletions WHERE deletion_id = :number AND at = :at AND id = :id

-- name: select_retired
SELECT what, seq, id, CASE what WHEN 'result' THEN hex(digest) END, what = 'content'
FROM deletions WHERE deletion_id > :after AND reason = 'retention' ORDER BY deletion_id

-- name: select_retired_here
SELECT w.key, EXISTS (SELECT 1 FROM requests AS q WHERE q.seq = r.seq) AS has_content
FROM json_each(:wanted) AS w CROSS JOIN results AS r ON r.id = w.value ->> 2
WHERE coalesce(w.value ->> 3, hex(r.digest)) = hex(r.digest) AND has_content >= w.value ->> 4
