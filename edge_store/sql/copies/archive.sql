-- The live database as `main`, what is archived beside it as `archive`.

-- name: unite
CREATE TEMP VIEW "name" AS SELECT * FROM main."name" UNION ALL SELECT * FROM archive."name"
