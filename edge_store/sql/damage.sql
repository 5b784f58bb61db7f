-- What is looked at before a database is opened for writing.

-- name: select_schema
SELECT 'table ' || name FROM sqlite_schema WHERE type = 'table'
UNION ALL
SELECT 'column ' || t.name || '.' || c.name
FROM sqlite_schema AS t, pragma_table_xinfo(t.name) AS c
WHERE t.type = 'table' AND substr(t.name, 1, 1) <> '_' -- not a library's

-- name: select_derived
SELECT type, name, sql FROM sqlite_schema
WHERE type IN ('view', 'index', 'trigger') AND sql IS NOT NULL
ORDER BY rowid

-- name: drop_view
DROP VIEW IF EXISTS "name"

-- name: drop_index
DROP INDEX IF EXISTS "name"

-- name: drop_trigger
DROP TRIGGER IF EXISTS "name"

-- name: select_newest_links
SELECT commit_id, boot_id, at, admitted_upto, seq_from, seq_to, digest, previous
FROM commits ORDER BY commit_id DESC LIMIT :limit

-- name: select_link
SELECT digest FROM commits WHERE commit_id = :commit_id
