-- Queries by name.

-- name: select_queries
SELECT name, sql, at FROM queries ORDER BY name

-- name: insert_query
INSERT INTO queries (name, at, sql) VALUES (:name, :at, :sql)

-- name: delete_query
DELETE FROM queries WHERE name = :name
