-- Indexes on a path inside stored JSON. '$' stands for the path, and the name is made longer by it.
-- Partial: a row without the path costs the index nothing.

-- name: create_output_index
CREATE INDEX "json.path" ON outputs (json_extract(output_json, '$'))
WHERE json_extract(output_json, '$') IS NOT NULL

-- name: create_metadata_index
CREATE INDEX "json.path" ON results (json_extract(metadata, '$'))
WHERE json_extract(metadata, '$') IS NOT NULL

-- name: drop_json_index
DROP INDEX IF EXISTS "json.path"

-- name: select_json_indexes
SELECT substr(name, 6) AS path FROM sqlite_schema
WHERE type = 'index' AND name LIKE 'json.%' ORDER BY name

-- name: measure_output_index
SELECT count(*), coalesce(sum(length(json_extract(output_json, '$'))), 0) FROM outputs
WHERE json_extract(output_json, '$') IS NOT NULL

-- name: measure_metadata_index
SELECT count(*), coalesce(sum(length(json_extract(metadata, '$'))), 0) FROM results
WHERE json_extract(metadata, '$') IS NOT NULL
