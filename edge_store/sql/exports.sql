-- Results for export, page by page. 'wanted' stands for the condition of a selection over `results AS
-- r` (selection.py).

-- name: select_export_span
SELECT max(seq) FROM (
    SELECT seq FROM results WHERE seq > :after AND seq <= :until ORDER BY seq LIMIT :results)

-- name: select_export_place
SELECT timeline, digest FROM results WHERE seq = :seq
UNION ALL
SELECT timeline, digest FROM deletions WHERE seq = :seq AND what = 'result'

-- name: select_export_results
SELECT * FROM results AS r WHERE r.seq > :after AND r.seq <= :upto AND 'wanted' ORDER BY r.seq

-- name: select_export_flat
SELECT * FROM generations WHERE seq IN (
    SELECT r.seq FROM results AS r WHERE r.seq > :after AND r.seq <= :upto AND 'wanted')
ORDER BY seq

-- name: select_export_spoken_of
SELECT r.id FROM results AS r WHERE r.seq > :after AND r.seq <= :upto
    AND (EXISTS (SELECT 1 FROM annotations AS a WHERE a.id = r.id)
        OR EXISTS (SELECT 1 FROM repairs AS p WHERE p.id = r.id))

-- name: select_export_annotations
SELECT at, kind, value FROM annotations WHERE id = :id ORDER BY annotation_id

-- name: select_export_repairs
SELECT at, choice_index, output_json, json_state, schema_valid, schema_error, repair_log, repairer
FROM repairs WHERE id = :id ORDER BY repair_id

-- name: select_export_bodies
SELECT request_body, response_body FROM bodies WHERE seq = :seq
