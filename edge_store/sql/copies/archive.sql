-- The live database as `main`, what is archived beside it as `archive`.

-- name: unite
CREATE TEMP VIEW "name" AS SELECT * FROM (
    SELECT "columns" FROM main."name" UNION ALL SELECT "columns" FROM archive."name") AS r

-- name: keep
CREATE TEMP VIEW "name" AS SELECT * FROM main."name" AS r

-- name: clear
DELETE FROM main."name"
